"""Minimum risk training: the expected risk over a sampled set of completions, as a differentiable loss."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def is_first_occurrence(tokens: Int[Tensor, "B K T"], completion_mask: Bool[Tensor, "B K T"]) -> Bool[Tensor, "B K"]:
    """Mark completions bool[B, K]: False on one that repeats an earlier one of its scene, token by token."""
    written = tokens.masked_fill(~completion_mask, -1)
    equal = (written.unsqueeze(1) == written.unsqueeze(2)).all(-1)  # [B, K, K]
    return ~equal.tril(-1).any(-1)


def minimum_risk(
    logps: Float[Tensor, "B K"],
    risks: Float[Tensor, "B K"],
    sharpness: float,
    is_first: Bool[Tensor, "B K"],
) -> Float[Tensor, ""]:
    """Average over scenes sum_k q_k risk_k with q proportional to p^sharpness over the set of distinct completions.

    Its gradient by logps_k is sharpness * q_k (risk_k - sum_j q_j risk_j): no baseline is needed. It is the exact
    gradient of this sum, but the sum depends on which completions were drawn, so it is biased for the risk of the
    model's whole distribution.

    Args:
        logps: log-probability of each completion, differentiable.
        risks: what is minimised; no gradient flows through it.
        sharpness: alpha of the source; 0 makes the completions equally probable, 1 leaves the model's proportions.
        is_first: False on repeated completions: a set holds each once.

    Raises:
        ValueError: for fewer than two completions, a sharpness that is negative or not finite, risks that are not
            finite, or a scene without a first occurrence.

    Source:
        Shen et al. 2016 (arXiv:1512.02433), section 3: the sampled subspace.
    """
    if logps.shape[1] < 2:
        raise ValueError(f"minimum risk needs num_completions >= 2, got {logps.shape[1]}")
    if not 0 <= sharpness < math.inf:
        raise ValueError(f"sharpness must be finite and >= 0, got {sharpness}")
    # One read of the device for both.
    are_finite, has_first = torch.stack([risks.isfinite().all(), is_first.any(1).all()]).tolist()
    if not are_finite:
        raise ValueError(f"risks must be finite, got {int((~risks.isfinite()).sum())} that are not")
    if not has_first:
        raise ValueError("is_first is False on every completion of a scene: the first of a set is never a repetition")
    scaled = sharpness * logps.to(torch.promote_types(logps.dtype, torch.float32))
    q = scaled.masked_fill(~is_first, -torch.inf).softmax(1)
    return (q * risks.detach()).sum(1).mean()
