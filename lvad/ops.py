"""Small tensor functions shared by the losses and the policies."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def gather_logps(logps: Float[Tensor, "*batch V"], tokens: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The entry of each token in its row of log-probabilities."""
    return logps.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def entropy(logps: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch"]:
    """Entropy in nats of normalised log-probabilities, of which some may be -inf (probability zero)."""
    return -torch.where(logps.isneginf(), 0.0, logps.exp() * logps).sum(-1)


def masked_mean(values: Float[Tensor, "*shape"], keep_mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean over the entries where ``keep_mask`` is True.

    Raises:
        ValueError: if none is; the mean of nothing is no number.
    """
    if not keep_mask.any():
        raise ValueError("masked_mean of an empty selection")
    return torch.where(keep_mask, values, 0.0).sum() / keep_mask.sum()


def sequence_sum(values: Float[Tensor, "B K T"], completion_mask: Bool[Tensor, "B K T"]) -> Float[Tensor, "B K"]:
    """Sum over the tokens of each completion."""
    return torch.where(completion_mask, values, 0.0).sum(-1)
