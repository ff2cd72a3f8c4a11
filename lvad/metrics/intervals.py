"""Confidence intervals of means and ratios over scenes, by the bootstrap."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Interval(NamedTuple):
    """A mean with the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap_ratio(
    parts: Float[Tensor, " N"],
    wholes: Float[Tensor, " N"],
    less: tuple[Tensor, Tensor] | None = None,
    num_draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Divide the sum of the parts by the sum of the wholes, with a 95 % percentile bootstrap interval over scenes.

    Args:
        parts: one number per scene.
        wholes: ones for a mean over scenes, counts for a share of all that was counted; at least 0.
        less: parts and wholes of another system on the same scenes, whose ratio is subtracted: both are drawn together.
        num_draws: resamples with replacement.
        seed: the same values give the same interval.

    Returns:
        NaN where a whole sums to 0; draws in which one does are left out of the interval.

    Raises:
        ValueError: for no scenes.
    """
    if not len(parts):
        raise ValueError("bootstrap_ratio of no scenes")
    pairs = [(parts, wholes), *([less] if less is not None else [])]
    drawn = torch.randint(len(parts), (num_draws, len(parts)), generator=torch.Generator().manual_seed(seed))
    ratios, values = [], []
    for part, whole in pairs:
        x, n = part.double().cpu(), whole.double().cpu()
        ratios.append(float(x.sum() / n.sum()))
        values.append(x[drawn].sum(1) / n[drawn].sum(1))
    ratio, draws = (ratios[0], values[0]) if less is None else (ratios[0] - ratios[1], values[0] - values[1])
    ends = draws[draws.isfinite()].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(ratio, *ends)


def bootstrap_mean(
    values: Float[Tensor, " N"], confidence: float = 0.95, num_draws: int = 2000, seed: int = 0
) -> Interval:
    """Compute a mean over scenes with its percentile bootstrap interval.

    For a paired comparison give the differences, one per scene.

    Args:
        values: one number per scene.
        confidence: share of the draws between low and high.
        num_draws: resamples with replacement.
        seed: the same values give the same interval.

    Raises:
        ValueError: for no values; the mean of nothing is no number.

    Source:
        Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    if not len(values):
        raise ValueError("bootstrap_mean of no values")
    x = values.cpu().double()  # in this order: not every device has float64
    drawn = torch.randint(len(x), (num_draws, len(x)), generator=torch.Generator().manual_seed(seed))
    means = x[drawn].mean(1)
    tail = (1 - confidence) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(float(x.mean()), low, high)
