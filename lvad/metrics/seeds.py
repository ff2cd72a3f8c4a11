"""Summaries over seeds: a mean with its interval, and the number of labels that a score needs."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from lvad.metrics.intervals import Interval


class LabelsNeeded(NamedTuple):
    """The number of labels that a curve needs to reach a score."""

    count: float
    bound: Literal["", "more than", "at most"] = ""
    """Set where the curve ends below the score or begins above it; ``count`` is then its last or first budget."""


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Compute a mean over seeds with Student's t interval: mean +- t sqrt(s^2 / S), s^2 over S - 1.

    Args:
        values: one number per seed, at least one.
        confidence: share of intervals that hold the true mean, for normal values.

    Returns:
        The interval; its ends are NaN for a single value, whose spread is unknown.

    Raises:
        ValueError: for no values.
    """
    if not values:
        raise ValueError("mean_interval of no values")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Interval(mean, math.nan, math.nan)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = student_t(confidence, len(values) - 1) * math.sqrt(variance / len(values))
    return Interval(mean, mean - half, mean + half)


def student_t(confidence: float, degrees: int) -> float:
    """Compute the quantile t of Student's distribution with P(|T| <= t) = confidence, by bisection.

    Args:
        confidence: in (0, 1).
        degrees: of freedom, at least 1.

    Raises:
        ValueError: for values out of range.
    """
    if not 0 < confidence < 1 or degrees < 1:
        raise ValueError(f"confidence must be in (0, 1) and degrees at least 1, got {confidence} and {degrees}")
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _central_share(middle, degrees) < confidence else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _central_share(angle: float, degrees: int) -> float:
    """Compute the probability P(|T| <= t) of Student's T, with t = sqrt(degrees) tan(angle).

    Source:
        Abramowitz and Stegun 1964, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = degrees % 2 == 1
    term = cosine if is_odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + is_odd, degrees - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total


def labels_needed(budgets: Sequence[int], scores: Sequence[float], score: float) -> LabelsNeeded:
    """Find where a curve of scores over budgets first reaches a score, with straight lines on a log axis.

    Args:
        budgets: numbers of labels, positive and rising.
        scores: the score at each budget.
        score: the score to reach.

    Raises:
        ValueError: for no budgets, another number of scores, or budgets that do not rise.
    """
    if not budgets or len(budgets) != len(scores):
        raise ValueError(f"labels_needed takes a score for each budget, got {len(budgets)} and {len(scores)}")
    if budgets[0] <= 0 or any(b <= a for a, b in pairwise(budgets)):
        raise ValueError(f"budgets must rise from above 0, got {list(budgets)}")
    if scores[0] >= score:
        return LabelsNeeded(float(budgets[0]), "at most")
    for i in range(1, len(budgets)):
        if scores[i] >= score:
            share = (score - scores[i - 1]) / (scores[i] - scores[i - 1])
            return LabelsNeeded(budgets[i - 1] * (budgets[i] / budgets[i - 1]) ** share)
    return LabelsNeeded(float(budgets[-1]), "more than")
