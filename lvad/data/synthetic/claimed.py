"""Labels of drawn scenes in any label set whose reasons speak of what is drawn."""

from collections.abc import Mapping
from functools import cache

from lvad.data.synthetic.state import SceneState, facts, labels
from lvad.facts import claims, is_true
from lvad.taxonomy import BDD_OIA, Taxonomy

Flags = tuple[int, ...]


def labels_in(state: SceneState, taxonomy: Taxonomy) -> tuple[Flags, Flags]:
    """Actions and reasons of a scene: BDD-OIA's by its own rules (``labels``), those of other sets by what they say.

    1. A reason holds where all that its words claim is drawn (``lvad.facts.claims``).
    2. An action is possible where a reason for it holds, or where the set has none, and none against it.
    3. Of two actions that exclude each other the second stays.

    Raises:
        ValueError: for a reason whose words claim nothing that is drawn.
    """
    if taxonomy == BDD_OIA:
        return labels(state)
    known = facts(state)
    reasons = tuple(int(all(is_true(claim, known) for claim in said)) for said in claims_of(taxonomy))
    actions = [_is_possible(action, reasons, taxonomy) for action in range(taxonomy.num_actions)]
    for first, second in taxonomy.exclusive:
        actions[first] = actions[first] and not actions[second]
    return tuple(map(int, actions)), reasons


@cache
def claims_of(taxonomy: Taxonomy) -> tuple[tuple[tuple[str, str], ...], ...]:
    """What each reason claims.

    Raises:
        ValueError: naming one that claims nothing that is drawn.
    """
    found = tuple(tuple(claims(text)) for text in taxonomy.reason_texts)
    if silent := [text for text, said in zip(taxonomy.reason_texts, found, strict=True) if not said]:
        raise ValueError(
            f"drawn scenes cannot be labelled with the set {taxonomy.name!r}: lvad.facts knows no fact that "
            f"{silent[0]!r} speaks of; take a format with label files"
        )
    return found


def _is_possible(action: int, reasons: Flags, taxonomy: Taxonomy) -> bool:
    own: Mapping[bool, list[int]] = {True: [], False: []}
    for reason, holds in zip(taxonomy.reasons, reasons, strict=True):
        if reason.action == action:
            own[reason.supports].append(holds)
    return (any(own[True]) or not own[True]) and not any(own[False])
