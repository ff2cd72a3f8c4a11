"""What a step of policy gradients learns from, and how it is kept for further updates."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from lvad.estimators import Estimate
from lvad.losses.policy_gradient import clipped_surrogate, reinforce
from lvad.ranks import mean_over_ranks, num_ranks
from lvad.rollouts import reward_stats, rollout_stats
from lvad.types import Rollouts, Scores


class Judged(NamedTuple):
    """Rewards of the completions of B scenes."""

    scores: Scores
    """Of the reward, before any limit or penalty."""
    is_kept: Tensor
    """bool[B], False on scenes whose scores were not finite."""
    rewards: Tensor
    """float[B, K], limited, the penalties taken off."""
    ref_logps: Tensor | None = None
    """float[B, K, T] under the reference; None without a KL."""
    stats: Mapping[str, Tensor] = MappingProxyType({})
    """float[] of the KL, to log."""


class Experience(NamedTuple):
    """The completions drawn for a batch, and what they are worth."""

    rollouts: Rollouts
    judged: Judged
    estimate: Estimate
    stats: dict[str, Tensor]
    """float[] to log."""


class RolloutReuse:
    """The experience of the present batch, from its first update to its last.

    Lightning calls ``training_step`` anew for each update of an optimizer step and passes nothing from one call to the
    next. What the later calls need of the first is held here, between the hook ``optimizer_step``, which counts the
    updates, and ``training_step``. Outside of that hook (accumulated batches, a trial step) every call is a first one.

    Args:
        num_updates: optimizer steps per rollout.
        clip: how far the ratio of probabilities may go from 1 where there are several.
    """

    def __init__(self, num_updates: int, clip: float) -> None:
        self.num_updates, self.clip = num_updates, clip
        self.is_first = True
        self._experience: Experience | None = None
        self._drawn_logps: Tensor | None = None

    def each_update(self) -> Iterator[int]:
        """Count the updates of one batch, and forget its experience at the end."""
        for update in range(self.num_updates):
            self.is_first = update == 0
            yield update
        self.is_first, self._experience, self._drawn_logps = True, None, None

    def keep(self, experience: Experience) -> None:
        """Take the place of the last batch's experience."""
        self._experience, self._drawn_logps = experience, None

    @property
    def experience(self) -> Experience:
        """The experience of the present batch.

        Raises:
            RuntimeError: before the first update has kept one.
        """
        if self._experience is None:
            raise RuntimeError("the first update of a batch must keep its experience")
        return self._experience

    def policy_loss(self, logps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy gradient as a loss, float[], and where rollouts are used again the share that is clipped.

        Args:
            logps: float[B, K, T] of the kept rollouts under the present policy.
        """
        advantages, mask = self.experience.estimate.advantages, self.experience.rollouts.completion_mask
        if self.num_updates == 1:
            return reinforce(logps, advantages, mask), {}
        if self._drawn_logps is None:
            # Those of this pass and not of the sampler, so that rounding leaves the first ratio at 1.
            self._drawn_logps = logps.detach()
        loss, share = clipped_surrogate(logps, self._drawn_logps, advantages, mask, self.clip)
        return loss, {"train/clipped": share}


def experience_stats(rollouts: Rollouts, judged: Judged, estimate: Estimate) -> dict[str, Tensor]:
    """What a batch says before it is learned from: float[] each, to log.

    Args:
        rollouts: of B scenes.
        judged: their rewards.
        estimate: its advantages as used, and which scenes take part.
    """
    is_kept = judged.is_kept if estimate.is_kept is None else estimate.is_kept
    rewards = reward_stats(judged.scores, estimate.advantages, is_kept)
    return {**rollout_stats(rollouts), **judged.stats, **rewards, **estimate.logged}


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
