"""Metrics of how well a score separates the texts that are true of a scene from those that are false."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_auroc,
    binary_f1_score,
    binary_precision,
    binary_recall,
)

from lvad.ranks import SceneRows


class Matches(NamedTuple):
    """A score and a truth for each of N scenes and C candidate texts."""

    scores: Tensor
    """float[N, C]."""
    is_true: Tensor
    """bool[N, C]."""
    is_false: Tensor
    """bool[N, C]; a pair may be neither."""


class MatchTable:
    """Collects the scores and labels of scenes over batches and ranks."""

    def __init__(self) -> None:
        self._rows = SceneRows[Matches]()
        self._device = torch.device("cpu")

    def update(
        self,
        ids: Sequence[str],
        scores: Float[Tensor, "B C"],
        is_true: Bool[Tensor, "B C"],
        is_false: Bool[Tensor, "B C"],
    ) -> None:
        """Add scenes."""
        self._device = scores.device
        parts = (part.detach().cpu() for part in (scores, is_true, is_false))
        self._rows.add(ids, (Matches(*row) for row in zip(*parts, strict=True)))

    def compute(self) -> Matches | None:
        """Return all scenes so far, in the order of one rank's loader; None if no rank has any."""
        rows = self._rows.gathered()
        return Matches(*(torch.stack(part).to(self._device) for part in zip(*rows, strict=True))) if rows else None

    def reset(self) -> None:
        """Forget the scenes added so far."""
        self._rows.reset()


def ranking_scores(matches: Matches) -> dict[str, Tensor]:
    """Compute the scores that need no threshold.

    Returns:
        ``auroc`` over all pairs that are true or false. Reasons differ in how often they are true, so a score that
        ignores the image and prefers frequent reasons has a high AUROC too: ``auroc_floor`` is the AUROC of their
        frequencies in these scenes, the best that such a score can reach. ``auroc_per_text`` is the mean over the texts
        of each text's AUROC over scenes, 0.5 for a score that ignores the image. ``score_right`` and ``score_wrong``
        are means over pairs.

    Raises:
        ValueError: if there is no true or no false pair.
    """
    scores, is_true, is_false = matches.scores.float(), matches.is_true, matches.is_false
    is_clear = is_true | is_false
    if not is_true.any() or not is_false.any():
        raise ValueError("an AUROC needs true and false pairs, and the scenes have no two kinds")
    frequency = is_true.float().mean(0).expand_as(scores)
    both = (is_true.any(0) & is_false.any(0)).nonzero().flatten().tolist()
    each = [binary_auroc(scores[is_clear[:, c], c], is_true[is_clear[:, c], c].long()) for c in both]
    nothing = scores.new_tensor(torch.nan)
    return {
        "auroc": binary_auroc(scores[is_clear], is_true[is_clear].long()),
        "auroc_floor": binary_auroc(frequency[is_clear], is_true[is_clear].long()),
        "auroc_per_text": torch.stack(each).mean() if each else nothing,
        "score_right": scores[is_true].mean(),
        "score_wrong": scores[is_false].mean(),
    }


def per_scene_scores(matches: Matches) -> dict[str, Tensor]:
    """Compute the scores of each scene alone, float[N] each; NaN for a scene without a true or without a false text.

    Returns:
        ``scene_auroc``: share of the scene's (true, false) pairs that are ranked rightly, ties count half.
        ``separation``: mean score of its true texts minus that of its false texts.
    """
    scores, is_true, is_false = matches.scores.float(), matches.is_true, matches.is_false
    pairs = is_true.unsqueeze(2) & is_false.unsqueeze(1)  # bool[N, C, C]
    gap = scores.unsqueeze(2) - scores.unsqueeze(1)
    wins = (gap > 0).float() + 0.5 * (gap == 0).float()
    num = pairs.sum((1, 2))
    means = [(scores * which).sum(1) / which.sum(1) for which in (is_true, is_false)]
    return {"scene_auroc": (wins * pairs).sum((1, 2)) / num, "separation": means[0] - means[1]}


def decision_scores(probabilities: Float[Tensor, " N"], is_match: Bool[Tensor, " N"]) -> dict[str, Tensor]:
    """Compute accuracy, precision, recall and F1 of the decision "matches" at P > 0.5 (Appendix B.4 of the paper)."""
    target = is_match.long()
    return {
        "accuracy": binary_accuracy(probabilities, target),
        "precision": binary_precision(probabilities, target),
        "recall": binary_recall(probabilities, target),
        "f1": binary_f1_score(probabilities, target),
    }
