"""Scores of many labels per scene, for many selections of the same scenes at once.

A selection is a row of scene numbers. All scenes once give the score itself, scenes drawn with replacement its
bootstrap, so that a score and its interval share every formula. torchmetrics takes a selection as one of its
"samples"; AUROC and calibration error have no such axis there, so they are written here.

Shape letters of this file: N scenes, C classes (A or R), D selections of S scenes each.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_f1_score,
    multiclass_confusion_matrix,
    multilabel_exact_match,
    multilabel_f1_score,
    multilabel_precision,
    multilabel_recall,
)

from lvad.metrics.intervals import Interval

_NUM_BINS: Final = 10
_EACH: Final[dict[str, Any]] = {"multidim_average": "samplewise", "validate_args": False}
_DRAWS_AT_ONCE: Final = 100  # keeps the resamples of 5,000 scenes within some 200 MB


class MultilabelScores(NamedTuple):
    """Scores of predicted label sets, each in 0 .. 1; a ratio 0 / 0 counts as 0."""

    macro_f1: Tensor
    """float[D], mean of ``f1`` over all C classes. A class that is never true has F1 0 whatever is predicted, so
    even the truth reaches only the share of classes that occur."""
    micro_f1: Tensor
    """float[D], F1 of the true positives, false positives and false negatives of all classes together."""
    f1_all: Tensor
    """float[D], mean over scenes of the F1 between predicted and true set; 0 where both are empty."""
    exact_match: Tensor
    """float[D], share of scenes with every label right."""
    bit_accuracy: Tensor
    """float[D], share of right entries among scenes times classes."""
    precision: Tensor
    """float[D, C]."""
    recall: Tensor
    """float[D, C]."""
    f1: Tensor
    """float[D, C]."""


class ProbabilityScores(NamedTuple):
    """Scores of probabilities before any threshold: ranking and calibration."""

    auroc: Tensor
    """float[D], mean over the classes with true and false scenes in the selection; NaN where none has both."""
    ece: Tensor
    """float[D], expected calibration error: mean over classes of the gap between claimed and observed share in 10
    bins of equal width, weighted by their scenes."""


class Confusion(NamedTuple):
    """Confusion matrices: counts of which class is predicted where which is true."""

    single: Tensor
    """int64[C, C], true class by predicted class, of the scenes with one of each."""
    num_left_out: Tensor
    """int64[], scenes with none or several true or predicted classes; ``single`` lacks them."""
    together: Tensor
    """int64[C + 1, C + 1], over all scenes: how often class i is true and class j is predicted of the same scene.
    The last row and column stand for "no class". A scene counts once for each pair, so rows do not sum to
    scenes; the truth itself gives the matrix of its co-occurrences, not a diagonal one."""


def multilabel_scores(
    predicted: Bool[Tensor, "N C"], true: Bool[Tensor, "N C"], is_valid: Bool[Tensor, " N"], drawn: Int[Tensor, "D S"]
) -> MultilabelScores:
    """Compare predicted with true label sets.

    Args:
        predicted: label sets.
        true: label sets.
        is_valid: False where the answer could not be parsed; an invalid answer without any label is no exact match of
            an empty truth, since an unreadable answer does not say "none".
        drawn: scene numbers of each selection.

    Returns:
        scikit-learn's scores with ``zero_division=0`` (``f1_all`` is its ``average="samples"``).

    Source:
        ``f1_all``, ``macro_f1``: Xu et al. 2020 (CVPR), as restated in section 5.1 of the paper.
    """
    num_classes = predicted.shape[1]
    said, truth = predicted[drawn].movedim(2, 1), true[drawn].movedim(2, 1)  # bool[D, C, S]
    # torchmetrics squeezes its results, so that a single selection loses its axis: reshape.
    micro, bits = (score(said, truth, **_EACH).reshape(-1) for score in (binary_f1_score, binary_accuracy))
    precision, recall, f1 = (
        score(said, truth, num_classes, average="none", **_EACH).reshape(-1, num_classes).float()
        for score in (multilabel_precision, multilabel_recall, multilabel_f1_score)
    )
    f1_per_scene, is_exact = _per_scene(predicted, true, is_valid)
    f1_all, exact = (value[drawn].mean(1) for value in (f1_per_scene, is_exact))
    return MultilabelScores(f1.mean(1), micro, f1_all, exact, bits, precision, recall, f1)


def _per_scene(predicted: Tensor, true: Tensor, is_valid: Tensor) -> tuple[Tensor, Tensor]:
    """Compute F1 and exact match of each scene, float[N] each."""
    f1 = binary_f1_score(predicted, true, **_EACH).reshape(-1)
    is_exact = multilabel_exact_match(predicted[..., None], true[..., None], predicted.shape[1], **_EACH).reshape(-1)
    return f1, is_exact * (is_valid | predicted.any(1)).float()


def probability_scores(
    probabilities: Float[Tensor, "N C"], true: Bool[Tensor, "N C"], drawn: Int[Tensor, "D S"]
) -> ProbabilityScores:
    """Score ranking and calibration of one probability per scene and class.

    Args:
        probabilities: in [0, 1].
        true: true label sets.
        drawn: scene numbers of each selection.

    Source:
        The calibration error of each class by itself, since over- and underconfident classes would cancel: Nixon
        et al. 2019 (arXiv:1904.01685).
    """
    times = torch.zeros(len(drawn), len(true), dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    columns = list(zip(probabilities.double().T, true.T, strict=True))
    auroc = torch.stack([_auroc(p, is_true, times) for p, is_true in columns], 1)
    ece = torch.stack([_calibration_error(p, is_true, times) for p, is_true in columns], 1)
    return ProbabilityScores(auroc.nanmean(1).float(), ece.mean(1).float())


def _auroc(p: Tensor, is_true: Tensor, times: Tensor) -> Tensor:
    """Compute the area under the ROC curve where each scene occurs ``times[d, n]`` times; NaN without both kinds."""
    order = p.argsort(descending=True)
    ranked = p[order]
    # Scenes of equal probability pass the threshold together: one step of the curve.
    is_step = torch.cat([ranked[1:] != ranked[:-1], torch.tensor([True])])
    times, is_true = times[:, order], is_true[order]
    curves = ((times * kind).cumsum(1)[:, is_step] for kind in (is_true, ~is_true))
    hits, alarms = (torch.nn.functional.pad(curve, (1, 0)) for curve in curves)
    return torch.trapezoid(hits, alarms) / (hits[:, -1] * alarms[:, -1])


def _calibration_error(p: Tensor, is_true: Tensor, times: Tensor) -> Tensor:
    bins = (p * _NUM_BINS).long().clamp(0, _NUM_BINS - 1)
    gaps = torch.nn.functional.one_hot(bins, _NUM_BINS) * (p - is_true.double())[:, None]
    return (times @ gaps).abs().sum(1) / times.sum(1)


def confusion(predicted: Bool[Tensor, "N C"], true: Bool[Tensor, "N C"]) -> Confusion:
    """Count which classes are true and predicted of the same scenes.

    Args:
        predicted: label sets.
        true: label sets.
    """
    num_classes = true.shape[1]
    is_single = (true.sum(1) == 1) & (predicted.sum(1) == 1)
    said, truth = predicted.long().argmax(1)[is_single], true.long().argmax(1)[is_single]
    with_none = [torch.cat([flags, ~flags.any(1, keepdim=True)], 1).float() for flags in (true, predicted)]
    return Confusion(
        single=multiclass_confusion_matrix(said, truth, num_classes, validate_args=False),
        num_left_out=(~is_single).sum(),
        together=(with_none[0].T @ with_none[1]).long(),
    )


def bootstrap(
    scores_of_draws: Callable[[Tensor], dict[str, Tensor]], num_scenes: int, num_draws: int, seed: int
) -> dict[str, Tensor]:
    """Score resamples of the scenes; the same seed and number of scenes draw the same ones.

    Args:
        scores_of_draws: function from scene numbers int64[D, S] to scores float[D] by name.
        num_scenes: S, the number of scenes.
        num_draws: resamples with replacement.
        seed: of the draws.

    Returns:
        float[num_draws] by name.
    """
    drawn = torch.randint(num_scenes, (num_draws, num_scenes), generator=torch.Generator().manual_seed(seed))
    parts = [scores_of_draws(part) for part in drawn.split(_DRAWS_AT_ONCE)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def percentile_interval(value: Float[Tensor, ""], draws: Float[Tensor, " D"], confidence: float) -> Interval:
    """Return a score with the middle ``confidence`` of its draws as interval; draws that are NaN are left out."""
    tail = (1 - confidence) / 2
    low, high = draws.double().nanquantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(float(value), low, high)
