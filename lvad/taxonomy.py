"""BDD-OIA's 4 actions and 21 reasons in the index order of the release.

Most public code names the reasons in the row order of a table of Xu et al. 2020 (CVPR), which is not the
order of the label files. The order here is that of the release's own label key; ``tests/test_taxonomy.py``
proves it on the real files by P(action | reason).
"""

from typing import Final, NamedTuple

ACTIONS: Final = ("forward", "stop", "left", "right")

FORWARD, STOP, LEFT, RIGHT = range(4)


class Reason(NamedTuple):
    """One of the 21 explanations."""

    key: str
    """The name in the release's label key."""
    text: str
    """The words lvad reads and writes (the paper's, Table 3, in lower case)."""
    action: int
    """Index of the action that it speaks of."""
    supports: bool
    """True where it explains why the action is possible, False where it forbids it."""


REASONS: Final = (
    Reason("f_follow_traffic", "follow traffic", FORWARD, True),
    Reason("f_road_clear", "road is clear", FORWARD, True),
    Reason("f_traffic_light", "traffic light is green", FORWARD, True),
    Reason("s_ob_car", "obstacle: car", STOP, True),
    Reason("s_ob_ped", "obstacle: person", STOP, True),
    Reason("s_ob_rider", "obstacle: rider", STOP, True),
    Reason("s_other", "obstacle: others", STOP, True),
    Reason("s_traffic_light", "traffic light is not green", STOP, True),
    Reason("s_traffic_sign", "traffic sign", STOP, True),
    Reason("l_front_car", "front car turning left", LEFT, True),
    Reason("l_lane", "on the left-turn lane", LEFT, True),
    Reason("l_traffic_light", "traffic light allows to turn left", LEFT, True),
    Reason("r_front_car", "front car turning right", RIGHT, True),
    Reason("r_lane", "on the right-turn lane", RIGHT, True),
    Reason("r_traffic_light", "traffic light allows to turn right", RIGHT, True),
    Reason("no_l_car", "obstacles on the left lane", LEFT, False),
    Reason("no_l_lane", "no lane on the left", LEFT, False),
    Reason("no_l_solid_line", "solid line on the left", LEFT, False),
    Reason("no_r_car", "obstacles on the right lane", RIGHT, False),
    Reason("no_r_lane", "no lane on the right", RIGHT, False),
    Reason("no_r_solid_line", "solid line on the right", RIGHT, False),
)

NUM_ACTIONS: Final = len(ACTIONS)
NUM_REASONS: Final = len(REASONS)
REASON_TEXTS: Final = tuple(reason.text for reason in REASONS)
REASON_INDEX: Final = {reason.key: i for i, reason in enumerate(REASONS)}


def _other_side(key: str) -> str:
    sides = {"l_": "r_", "r_": "l_", "no_l_": "no_r_", "no_r_": "no_l_"}
    return next((other + key.removeprefix(side) for side, other in sides.items() if key.startswith(side)), key)


MIRRORED_ACTIONS: Final = (FORWARD, STOP, RIGHT, LEFT)
"""Entry i: the action that is possible in the mirrored scene where action i is in the scene itself."""
MIRRORED_REASONS: Final = tuple(REASON_INDEX[_other_side(reason.key)] for reason in REASONS)
"""Entry i: the reason that is true of the mirrored scene where reason i is true of the scene itself."""
