"""How much of what a text says is true of its scene, and how much of what matters it says."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from lvad.facts import DRIVING, claims, is_true, present


class FactCounts(NamedTuple):
    """What one text says of its scene."""

    num_claims: int
    """Distinct claims; see ``lvad.facts.claims``."""
    num_true: int
    """Those of them that hold."""
    num_driving_present: int
    """Salient driving facts of the scene."""
    num_driving_found: int
    """Those of them that a true claim names."""


def fact_counts(text: str, facts: Mapping[str, str]) -> FactCounts:
    """Compare one text with the facts of its scene.

    Args:
        text: any words.
        facts: every attribute of ``lvad.facts.ATTRIBUTES`` with its value.

    Returns:
        Counts; both of the claims are 0 where the text claims nothing.

    Raises:
        KeyError: if ``facts`` lacks an attribute that the text speaks of.
    """
    found = claims(text)
    true = [claim for claim in found if is_true(claim, facts)]
    salient = present(facts)
    named = {attribute for attribute, _ in true if attribute in DRIVING}
    return FactCounts(len(found), len(true), len(salient), len(named & salient.keys()))


class FactScore(Metric):
    """Facts told over a whole set of texts; each text is compared with its own scene.

    ``compute`` returns, each in 0 .. 1 but the last:
        precision: true claims / claims. A text without a claim adds to neither.
        recall: salient driving facts told / present. A text without a claim tells none.
        all_right: texts with at least one claim and all of them true / texts.
        claims_per_text: claims / texts.
    A ratio of nothing to nothing is 0.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    num_texts: Tensor
    num_claims: Tensor
    num_true: Tensor
    num_present: Tensor
    num_found: Tensor
    num_all_right: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("num_texts", "num_claims", "num_true", "num_present", "num_found", "num_all_right"):
            self.add_state(name, default=torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, texts: Sequence[str], facts: Sequence[Mapping[str, str] | None]) -> None:
        """Add texts; those whose scene has no facts (None) are left out of every count.

        Args:
            texts: N texts.
            facts: the facts of each text's scene.

        Raises:
            ValueError: if the lengths differ.
        """
        if len(texts) != len(facts):
            raise ValueError(f"{len(texts)} texts and {len(facts)} facts, must be as many")
        pairs = zip(texts, facts, strict=True)
        counts = [fact_counts(text, known) for text, known in pairs if known is not None]
        self.num_texts += len(counts)
        self.num_claims += sum(count.num_claims for count in counts)
        self.num_true += sum(count.num_true for count in counts)
        self.num_present += sum(count.num_driving_present for count in counts)
        self.num_found += sum(count.num_driving_found for count in counts)
        self.num_all_right += sum(0 < count.num_claims == count.num_true for count in counts)

    def compute(self) -> dict[str, Tensor]:
        """The four figures of the class, each a float[]."""
        return {
            "precision": _ratio(self.num_true, self.num_claims),
            "recall": _ratio(self.num_found, self.num_present),
            "all_right": _ratio(self.num_all_right, self.num_texts),
            "claims_per_text": _ratio(self.num_claims, self.num_texts),
        }


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return part / whole.clamp(min=1)
