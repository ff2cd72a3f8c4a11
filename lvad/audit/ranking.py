"""The rank of the right text among all candidates, and the calibration of a reward as a probability."""

from typing import NamedTuple

import torch
from torch import Tensor

from lvad.data.pairs import Candidates
from lvad.metrics.calibration import calibration_curve, fit_platt
from lvad.metrics.matching import Matches, ranking_scores


class Rank(NamedTuple):
    """Rank of the right text among the false candidates of its scene: 1 is the best, ties count half."""

    mean: float
    median: float
    chance: float
    """Mean rank of a text that is chosen at random."""


class Calibration(NamedTuple):
    """P(true) = sigmoid(slope * reward + offset), fitted on every second scene and tested on the rest."""

    slope: float
    offset: float
    claimed: list[float]
    """Mean probability of each bin."""
    observed: list[float]
    """Share of true texts in each bin."""
    count: list[int]
    """Number of scene-text pairs in each bin."""
    ece: float
    """Expected calibration error: mean over pairs of |claimed - observed| of their bin."""


class Ranking(NamedTuple):
    """Rank and calibration of all candidate texts against all scenes."""

    rank: Rank
    auroc: float
    auroc_floor: float
    """AUROC of how often each text is true: the best that a reward can reach without looking at the image."""
    auroc_per_text: float
    """Mean AUROC of a single text over scenes, 0.5 for a reward that looks at no image; NaN if no text has both."""
    calibration: Calibration | None
    """None where one half of the scenes lacks true or false texts."""


def rank_candidates(right: Tensor, scores: Tensor, found: Candidates) -> Ranking:
    """Rank the right text of each scene among the candidates, and calibrate the reward as a probability.

    Args:
        right: rewards of the right texts float64[N], NaN where a scene has none.
        scores: rewards of the candidates float64[N, C].
        found: which of them are true.

    Raises:
        ValueError: if no scene has both a true and a false candidate.
    """
    standing = ranking_scores(Matches(scores, found.is_true, found.is_false))
    return Ranking(
        rank=_rank(right, scores, found.is_false),
        auroc=standing["auroc"].item(),
        auroc_floor=standing["auroc_floor"].item(),
        auroc_per_text=standing["auroc_per_text"].item(),
        calibration=_calibrate(scores, found),
    )


def _rank(right: Tensor, scores: Tensor, is_false: Tensor) -> Rank:
    rows = ~right.isnan()
    own, other, counts = right[rows, None], scores[rows], is_false[rows]
    better = ((other > own) & counts).sum(1) + 0.5 * ((other == own) & counts).sum(1)
    place = 1 + better.double()
    return Rank(place.mean().item(), place.quantile(0.5).item(), (1 + counts.sum(1) / 2).mean().item())


def _calibrate(scores: Tensor, found: Candidates) -> Calibration | None:
    fitting, trying = (_clear(scores[half::2], found.is_true[half::2], found.is_false[half::2]) for half in (0, 1))
    if any(is_match.all() or not is_match.any() for _, is_match in (fitting, trying)):
        return None
    slope, offset = fit_platt(*fitting).tolist()
    values, is_match = trying
    curve = calibration_curve(torch.sigmoid(slope * values + offset), is_match)
    ece = ((curve.claimed - curve.observed).abs() * curve.count).sum() / curve.count.sum()
    return Calibration(slope, offset, curve.claimed.tolist(), curve.observed.tolist(), curve.count.tolist(), ece.item())


def _clear(scores: Tensor, is_true: Tensor, is_false: Tensor) -> tuple[Tensor, Tensor]:
    is_clear = is_true | is_false
    return scores[is_clear], is_true[is_clear]
