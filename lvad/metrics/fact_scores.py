"""Precision and recall of the facts that texts state of their scenes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lvad.facts import DRIVING, claims, is_true, salient_facts


class FactCounts(NamedTuple):
    """Counts of the facts that one text states of its scene, and of those that are true."""

    num_claims: int
    """Number of distinct claims of the text; see ``lvad.facts.claims``."""
    num_true: int
    """Number of claims that are true."""
    num_driving_present: int
    """Number of salient driving facts of the scene."""
    num_driving_found: int
    """Number of salient driving facts that a true claim names."""


def fact_counts(text: str, facts: Mapping[str, str]) -> FactCounts:
    """Compare one text with the facts of its scene.

    Args:
        text: any words.
        facts: every attribute of ``lvad.facts.ATTRIBUTES`` with its value.

    Returns:
        The counts; those of claims are 0 where the text claims nothing.

    Raises:
        KeyError: if ``facts`` lacks an attribute that the text speaks of.
    """
    found = claims(text)
    true = [claim for claim in found if is_true(claim, facts)]
    salient = salient_facts(facts)
    named = {attribute for attribute, _ in true if attribute in DRIVING}
    return FactCounts(len(found), len(true), len(salient), len(named & salient.keys()))


def fact_scores(counts: Sequence[FactCounts]) -> dict[str, Tensor]:
    """Compute precision and recall of the facts over a whole set of texts.

    Returns:
        float[] each, in 0 .. 1 but the last; a ratio of nothing to nothing is 0:
        precision: true claims / claims. A text without a claim adds to neither.
        recall: salient driving facts told / present. A text without a claim tells none.
        all_right: texts with at least one claim and all of them true / texts.
        claims_per_text: claims / texts.
    """
    num_claims, num_true, num_present, num_found = (sum(count[i] for count in counts) for i in range(4))
    num_all_right = sum(0 < count.num_claims == count.num_true for count in counts)
    return {
        "precision": _ratio(num_true, num_claims),
        "recall": _ratio(num_found, num_present),
        "all_right": _ratio(num_all_right, len(counts)),
        "claims_per_text": _ratio(num_claims, len(counts)),
    }


def _ratio(part: int, whole: int) -> Tensor:
    return torch.tensor(part / max(whole, 1))
