"""Weights against always-stop: one formula for balanced sampling and for the weighted loss."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def action_weights(actions: Int[Tensor, "N A"] | Bool[Tensor, "N A"]) -> Float[Tensor, " N"]:
    """How much each scene should count, by the rarest of its true actions.

    w_n = max over its true actions of 1 / share of the action, normalised to mean 1. A scene of one label then counts
    as in inverse-frequency weighting; one of several is as rare as its rarest. A scene without any action counts like
    those of the most common one.

    Args:
        actions: zeros and ones.

    Returns:
        Positive weights with mean 1.

    Raises:
        ValueError: without scenes, or for entries other than 0 and 1.
    """
    if not len(actions):
        raise ValueError("no scenes to weigh")
    if not ((actions == 0) | (actions == 1)).all():
        raise ValueError(f"actions must be 0 or 1, got {sorted(actions.unique().tolist())[:5]}; label every scene")
    labels = actions.float()
    rarity = 1 / labels.mean(0).clamp(min=1 / len(labels))
    weights = (labels * rarity).amax(1)
    return (weights := torch.where(weights > 0, weights, rarity.min())) / weights.mean()
