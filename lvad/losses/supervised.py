"""Cross-entropy on answers."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def token_cross_entropy(logps: Float[Tensor, "N T"], target_mask: Bool[Tensor, "N T"]) -> Float[Tensor, ""]:
    """Negative log-probability per target token, averaged over all target tokens of the batch.

    Args:
        logps: log-probability of each target token.
        target_mask: True on target tokens, False on padding.

    Raises:
        ValueError: if no token is a target.
    """
    if not target_mask.any():
        raise ValueError("no target token in the batch")
    return -torch.where(target_mask, logps, 0.0).sum() / target_mask.sum()
