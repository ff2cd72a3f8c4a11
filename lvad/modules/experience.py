"""What a step of policy gradients learns from."""

from typing import NamedTuple

import torch
from torch import Tensor

from lvad.estimators import Estimate
from lvad.ranks import mean_over_ranks, num_ranks
from lvad.types import Rollouts


class Experience(NamedTuple):
    """What was drawn for a batch, and what it is worth."""

    rollouts: Rollouts
    ref_logps: Tensor | None
    """float[B, K, T] under the reference; None without a KL."""
    estimate: Estimate
    values: dict[str, Tensor]
    """float[] to log."""


def values_of_all_ranks(values: dict[str, Tensor], device: torch.device, may_drop: bool) -> dict[str, Tensor]:
    """What a step logs, float[] on the CPU: means over the ranks, and how many scenes all of them dropped.

    Args:
        values: of this rank.
        device: of this rank.
        may_drop: scenes may be dropped, maybe all: then a mean over them is NaN, and left out.
    """
    found = mean_over_ranks(values, device, skip_nan=may_drop)
    if may_drop:
        found = {name: value for name, value in found.items() if not value.isnan()}
        found["reward/dropped"] = num_ranks() * found["reward/dropped"]
    return found
