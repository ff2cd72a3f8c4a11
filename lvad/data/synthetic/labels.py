"""Label synthetic scenes: by rules for BDD-OIA, by the words of the reasons for any other label set."""

from collections.abc import Mapping
from functools import cache

from lvad.data.synthetic.state import SceneState, Side, scene_facts
from lvad.facts import claims, is_true
from lvad.taxonomy import BDD_OIA, Taxonomy

FORWARD, STOP, LEFT, RIGHT = range(4)
"""BDD-OIA's actions."""
Flags = tuple[int, ...]


def bdd_oia_labels(state: SceneState) -> tuple[Flags, Flags]:
    """Label a scene with the actions and reasons of BDD-OIA, by these rules.

    1. Stop, for every one of: a braking car right ahead (reason 3), a person crossing (4), a rider ahead (5),
       cones or a barrier (6), a red or yellow light (7), a stop or yield sign (8).
    2. Forward, where nothing says stop, unless our way turns: a turn lane, a light that shows an arrow only,
       or a turning car ahead without a green light. Its reasons: a car ahead that drives straight on (0),
       nothing ahead (1), a green light (2).
    3. Turning left, where nothing says stop, for every one of: the car ahead turns left (9), we are on the
       left-turn lane (10), the light shows a left arrow (11). Right likewise (12-14).
    4. Changing lane to the left has no reason of its own. It is possible where that lane is free behind a
       dashed line, unless a light, a sign, a person or a rider stops us; a car or an obstacle ahead does not prevent
       it. Right likewise.
    5. A car on the left lane (15), no left lane (16), a solid left line (17) forbid the left; right likewise
       (18-20). At a junction no lane is marked, and none of these reasons holds.

    Returns:
        A = 4 and R = 21 zeros and ones in the release's index order.
    """
    actions, reasons = [0] * BDD_OIA.num_actions, [0] * BDD_OIA.num_reasons
    given = _stop_reasons(state)
    actions[STOP] = int(bool(given))
    if not given:
        going = _forward_reasons(state)
        turning = _turn_reasons(state, "left", "l"), _turn_reasons(state, "right", "r")
        actions[FORWARD] = int(bool(going))
        actions[LEFT], actions[RIGHT] = (int(bool(reasons_of_side)) for reasons_of_side in turning)
        given = [*going, *turning[0], *turning[1]]
    is_held = any(key not in ("s_ob_car", "s_other") for key in given if key.startswith("s_"))
    for action, side, letter in ((LEFT, state.left, "l"), (RIGHT, state.right, "r")):
        if side.lane == "free" and side.line == "dashed" and not is_held:
            actions[action] = 1
        given += _forbidding(side, letter)
    for key in given:
        reasons[BDD_OIA.reason_index[key]] = 1
    return tuple(actions), tuple(reasons)


def _stop_reasons(state: SceneState) -> list[str]:
    holds = {
        "s_ob_car": state.braking,
        "s_ob_ped": state.person == "crossing",
        "s_ob_rider": state.rider,
        "s_other": state.obstacle != "none",
        "s_traffic_light": state.light in ("red", "yellow"),
        "s_traffic_sign": state.sign in ("stop", "yield"),
    }
    return [key for key, value in holds.items() if value]


def _forward_reasons(state: SceneState) -> list[str]:
    is_green = state.light == "green"
    turns = state.turn_lane != "none" or state.light.endswith("arrow") or (state.turn != "none" and not is_green)
    holds = {
        "f_follow_traffic": state.lead != "none" and state.turn == "none",
        "f_road_clear": state.lead == "none",
        "f_traffic_light": is_green,
    }
    return [key for key, value in holds.items() if value and not turns]


def _turn_reasons(state: SceneState, side: str, letter: str) -> list[str]:
    holds = {
        f"{letter}_front_car": state.turn == side,
        f"{letter}_lane": state.turn_lane == side,
        f"{letter}_traffic_light": state.light == f"{side} arrow",
    }
    return [key for key, value in holds.items() if value]


def _forbidding(side: Side, letter: str) -> list[str]:
    holds = {
        f"no_{letter}_car": side.lane == "car",
        f"no_{letter}_lane": side.lane == "absent",
        f"no_{letter}_solid_line": side.line == "solid",
    }
    return [key for key, value in holds.items() if value]


def taxonomy_labels(state: SceneState, taxonomy: Taxonomy) -> tuple[Flags, Flags]:
    """Label a scene with any label set: BDD-OIA by ``bdd_oia_labels``, other sets by the words of their reasons.

    1. A reason holds where everything that its words claim is true of the scene (``lvad.facts.claims``).
    2. An action is possible where a reason for it holds, or where the set has none, and none against it.
    3. Of two actions that exclude each other the second stays.

    Raises:
        ValueError: for a reason whose words claim nothing that is drawn.
    """
    if taxonomy == BDD_OIA:
        return bdd_oia_labels(state)
    known = scene_facts(state)
    reasons = tuple(int(all(is_true(claim, known) for claim in said)) for said in claims_of(taxonomy))
    actions = [_is_possible(action, reasons, taxonomy) for action in range(taxonomy.num_actions)]
    for first, second in taxonomy.exclusive:
        actions[first] = actions[first] and not actions[second]
    return tuple(map(int, actions)), reasons


@cache
def claims_of(taxonomy: Taxonomy) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Extract the claims of each reason's words.

    Raises:
        ValueError: naming one that claims nothing that is drawn.
    """
    found = tuple(tuple(claims(text)) for text in taxonomy.reason_texts)
    if silent := [text for text, said in zip(taxonomy.reason_texts, found, strict=True) if not said]:
        raise ValueError(
            f"synthetic scenes cannot be labelled with the set {taxonomy.name!r}: lvad.facts knows no fact that "
            f"{silent[0]!r} speaks of; take a format with label files"
        )
    return found


def _is_possible(action: int, reasons: Flags, taxonomy: Taxonomy) -> bool:
    own: Mapping[bool, list[int]] = {True: [], False: []}
    for reason, holds in zip(taxonomy.reasons, reasons, strict=True):
        if reason.action == action:
            own[reason.supports].append(holds)
    return (any(own[True]) or not own[True]) and not any(own[False])
