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
        weights: of the rows, positive; the average is then sum of weight times nll over sum of weight times tokens.

    Raises:
        ValueError: if no token is a target.
    """
    if not target_mask.any():
        raise ValueError("no target token in the batch")
    counted = target_mask if weights is None else target_mask * weights.unsqueeze(1)
    return -torch.where(target_mask, logps * counted, 0.0).sum() / counted.sum()
