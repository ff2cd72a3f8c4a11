"""How sure a mean over scenes is."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Interval(NamedTuple):
    """A mean with its interval."""

    mean: float
    low: float
    high: float


def bootstrap_mean(
    values: Float[Tensor, " N"], confidence: float = 0.95, num_draws: int = 2000, seed: int = 0
) -> Interval:
    """Mean over scenes with its percentile bootstrap interval.

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
