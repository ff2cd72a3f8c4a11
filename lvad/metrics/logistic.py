"""Multi-label logistic regression with an L2 penalty, fitted to its unique optimum: every run gives the same."""

from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_MAX_STEPS: Final = 2000
_LARGEST_GRADIENT: Final = 1e-5
"""Largest gradient that may be left of the preconditioned problem, whose curvature is at most 1."""


class Logistic(NamedTuple):
    """Logistic regressions of C labels: logit P(label c | x) = x . weights[:, c] + offsets[c]."""

    weights: Tensor
    """float64[D, C]."""
    offsets: Tensor
    """float64[C]."""

    def logits(self, features: Tensor) -> Tensor:
        """Compute the logits float64[..., C] of features float64[..., D]."""
        return features @ self.weights + self.offsets


def fit_logistic(
    features: Float[Tensor, "N D"], targets: Float[Tensor, "N C"], counts: Float[Tensor, " N"], penalty: float
) -> Logistic:
    """Fit one regression per label on the same features, in float64.

    The objective is the sum over examples of ``counts`` times the cross-entropy, plus ``penalty`` / 2 times the squared
    norm of the weights and of the intercept's distance from the smoothed log-odds of the label,
    (n_true + 1/2) / (n + 1). So a label that is never true stays improbable, and no weight is infinite.

    Args:
        features: features of N examples; their mean is subtracted, so that the penalty does not depend on it.
        targets: probabilities of the labels, in [0, 1].
        counts: weight of each example, above 0.
        penalty: weight of the L2 penalty, above 0.

    Raises:
        ValueError: without an example, for a penalty that is not positive, or features that are not finite.

    Source:
        L-BFGS with the inverse of Boehning's bound on the curvature (1992, "Multinomial logistic regression
        algorithm") as its preconditioner: X'WX / 4 plus the penalty.
    """
    if not len(features) or not penalty > 0 or not features.isfinite().all():
        raise ValueError(
            f"a regression needs examples, finite features and a penalty above 0, got {len(features)} examples and "
            f"penalty {penalty}"
        )
    x, y, n = features.cpu().double(), targets.cpu().double(), counts.cpu().double()[:, None]
    mean = (n * x).sum(0) / n.sum()
    design = torch.cat([x - mean, torch.ones_like(x[:, :1])], 1)
    start = (((n * y).sum(0) + 0.5) / (n.sum() + 1)).logit()
    theta = _minimise(design, y, n, start, penalty)
    return Logistic(theta[:-1], theta[-1] + start - mean @ theta[:-1])


def _minimise(design: Tensor, y: Tensor, n: Tensor, start: Tensor, penalty: float) -> Tensor:
    """Find the optimal weights float64[D + 1, C] of ``design`` float64[N, D + 1], added to the intercepts ``start``.

    Raises:
        ValueError: if the gradient that is left is too large.
    """
    bound = (n * design).T @ design / 4 + penalty * torch.eye(design.shape[1], dtype=torch.float64)
    scale = torch.linalg.inv(torch.linalg.cholesky(bound)).T  # the parameters are scale @ free
    free = torch.zeros(design.shape[1], y.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [free], max_iter=_MAX_STEPS, tolerance_grad=1e-8, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    @torch.no_grad()
    def loss() -> Tensor:
        theta = scale @ free
        logits = design @ theta + start
        gradient = design.T @ (n * (torch.sigmoid(logits) - y)) + penalty * theta
        free.grad = scale.T @ gradient
        entropy = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
        return (n * entropy).sum() + penalty / 2 * theta.square().sum()

    optimizer.step(loss)
    loss()
    assert free.grad is not None
    if not free.grad.abs().max() < _LARGEST_GRADIENT:
        raise ValueError(f"the regression did not converge: a gradient of {free.grad.abs().max():.3g} is left")
    return scale @ free.detach()
