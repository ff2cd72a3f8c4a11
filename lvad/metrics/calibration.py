"""Turn scores into probabilities (Platt scaling), and compare claimed with observed probabilities."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_NUM_STEPS = 100
_RIDGE = 1e-9


class CalibrationCurve(NamedTuple):
    """Claimed against observed probability in equal-width bins; empty bins are left out."""

    claimed: Tensor
    """float[N], mean probability of each bin."""
    observed: Tensor
    """float[N], share of matches in each bin."""
    count: Tensor
    """int64[N], number of scores in each bin."""


def fit_platt(scores: Float[Tensor, " N"], is_match: Bool[Tensor, " N"]) -> Float[Tensor, "2"]:
    """Fit slope a and offset b of P(match) = sigmoid(a * score + b) by maximum likelihood.

    The targets are Platt's (n + 1) / (n + 2) and 1 / (n + 2) instead of 1 and 0, so that scores without overlap
    have a finite slope too.

    Args:
        scores: any range.
        is_match: both values must occur.

    Returns:
        float64[2], a and b.

    Raises:
        ValueError: if there are only matches or only mismatches, or a score is not finite.

    Source:
        Platt 1999, "Probabilistic Outputs for Support Vector Machines", section 2.
    """
    num_match, num_other = int(is_match.sum()), int((~is_match).sum())
    if not num_match or not num_other:
        raise ValueError(f"calibration needs matches and mismatches, got {num_match} and {num_other}")
    x = scores.cpu().double()  # in this order: not every device has float64
    if not x.isfinite().all():
        raise ValueError("calibration needs finite scores")
    centre, spread = x.mean(), x.std().clamp_min(1e-12)
    design = torch.stack([(x - centre) / spread, torch.ones_like(x)], 1)
    high, low = (num_match + 1) / (num_match + 2), 1 / (num_other + 2)
    target = torch.where(is_match.cpu(), high, low).double()
    theta = _newton(design, target)
    slope = theta[0] / spread
    return torch.stack([slope, theta[1] - slope * centre])


def _newton(design: Tensor, target: Tensor) -> Tensor:
    """Fit a logistic regression of soft targets; steps are halved until the likelihood does not fall."""
    theta = torch.zeros(design.shape[1], dtype=torch.float64)

    def loss(at: Tensor) -> Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(design @ at, target)

    for _ in range(_NUM_STEPS):
        p = torch.sigmoid(design @ theta)
        gradient = design.T @ (p - target) / len(design)
        if gradient.abs().max() < 1e-12:
            break
        hessian = (design * (p * (1 - p))[:, None]).T @ design / len(design)
        step = torch.linalg.solve(hessian + _RIDGE * torch.eye(len(theta)), gradient)
        while loss(theta - step) > loss(theta) and step.abs().max() > 1e-14:
            step = step / 2
        theta = theta - step
    return theta


def calibration_curve(
    probabilities: Float[Tensor, " N"], is_match: Bool[Tensor, " N"], num_bins: int = 10
) -> CalibrationCurve:
    """Compare what probabilities claim with what happens, in bins of equal width.

    Args:
        probabilities: in [0, 1].
        is_match: what was observed.
        num_bins: bins between 0 and 1.
    """
    probabilities, is_match = probabilities.cpu(), is_match.cpu()  # not every device has float64
    bins = (probabilities * num_bins).long().clamp(0, num_bins - 1)
    count = torch.bincount(bins, minlength=num_bins)
    used = count > 0
    claimed = torch.bincount(bins, probabilities.double(), num_bins)[used] / count[used]
    observed = torch.bincount(bins, is_match.double(), num_bins)[used] / count[used]
    return CalibrationCurve(claimed, observed, count[used])
