"""Cross-entropy on answers."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def token_cross_entropy(
    logps: Float[Tensor, "N T"],
    target_mask: Bool[Tensor, "N T"],
    weights: Float[Tensor, " N"] | None = None,
    mean_tokens: float | None = None,
) -> Float[Tensor, ""]:
    """Average the negative log-probability over all target tokens of the batch.

    The denominator is the number of target tokens, with weights too. Over the weights' own sum they would cancel in a
    batch of one row, and four batches of one would weigh other than one of four. For the same reason it can be the
    number of tokens that N rows have on average: then the mean of the gradients of several batches, accumulated or on
    several devices, is the gradient of them all, however long the rows are.

    Args:
        logps: log-probability of each target token.
        target_mask: True on target tokens, False on padding.
        weights: of the rows, with mean 1 over the training set; they multiply the rows' negative log-probabilities.
            None, or ones, leave the plain mean.
        mean_tokens: target tokens of a row, on average over the training set; None counts those of the batch.

    Raises:
        ValueError: if no token is a target, or a weight is not positive and finite.
    """
    if weights is None:
        weights = logps.new_ones(len(logps))
    # One read of the device for both.
    has_target, is_fine = torch.stack([target_mask.any(), ((weights > 0) & weights.isfinite()).all()]).tolist()
    if not has_target:
        raise ValueError("no target token in the batch")
    if not is_fine:
        raise ValueError(f"weights must be positive and finite, got {weights.min().item()} to {weights.max().item()}")
    num_tokens = target_mask.sum() if mean_tokens is None else mean_tokens * len(logps)
    return -torch.where(target_mask, logps * weights.unsqueeze(1), 0.0).sum() / num_tokens
