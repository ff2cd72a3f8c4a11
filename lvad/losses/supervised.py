"""Cross-entropy on answers."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def token_cross_entropy(
    logps: Float[Tensor, "N T"], target_mask: Bool[Tensor, "N T"], weights: Float[Tensor, " N"] | None = None
) -> Float[Tensor, ""]:
    """Negative log-probability per target token, averaged over all target tokens of the batch.

    Args:
        logps: log-probability of each target token.
        target_mask: True on target tokens, False on padding.
        weights: of the rows; the average is then sum of weight times nll over sum of weight times tokens, so that
            only their proportions count. None, or equal ones, leave the plain mean.

    Raises:
        ValueError: if no token is a target, or a weight is not positive and finite.
    """
    if not target_mask.any():
        raise ValueError("no target token in the batch")
    if weights is None:
        return -torch.where(target_mask, logps, 0.0).sum() / target_mask.sum()
    if not ((weights > 0) & weights.isfinite()).all():
        raise ValueError(f"weights must be positive and finite, got {weights.min().item()} to {weights.max().item()}")
    each = weights.unsqueeze(1)
    return -torch.where(target_mask, logps * each, 0.0).sum() / (target_mask * each).sum()
