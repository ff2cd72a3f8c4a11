"""What keeps a policy from forgetting and hacking, and how often its rollouts are used."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lvad.errors import DataError
from lvad.objectives.rehearsal import Rehearsal
from lvad.ops import sequence_sum
from lvad.types import Rollouts


@dataclass(frozen=True)
class Regularisation:
    """Beside the KL.

    Args:
        entropy_bonus: reward per nat of -log pi(completion), whose mean is the entropy of the policy's law.
        rehearsal: supervised cross-entropy on a few labelled scenes beside the policy gradient; None for none.
        updates: optimizer steps per rollout. The paper and the default: 1, on-policy. The later ones weight each
            completion with the ratio of its probabilities, clipped. ``trainer.max_steps``, the schedule of the
            learning rate and the step that is logged count rollouts.
        clip: how far that ratio may go from 1.
        reward_clip: rewards beyond this distance from 0 are moved there before any penalty, so that one outlier cannot
            outweigh a batch; None for no limit. The logged rewards are those before.
        non_finite: what to do with a reward that is nan or infinite: ``error``, or ``drop`` its scene from the step
            and count it as ``reward/dropped``.

    Raises:
        ValueError: for a bonus that is negative or not finite, fewer than one update, a clip outside (0, 1), a limit
            that is not positive, or another word for ``non_finite``.
    """

    entropy_bonus: float = 0.0
    rehearsal: Rehearsal | None = None
    updates: int = 1
    clip: float = 0.2
    reward_clip: float | None = None
    non_finite: Literal["error", "drop"] = "error"

    def __post_init__(self) -> None:
        if not 0 <= self.entropy_bonus < math.inf:
            raise ValueError(f"entropy_bonus must be >= 0 and finite, got {self.entropy_bonus}")
        if self.updates < 1:
            raise ValueError(f"updates must be >= 1, got {self.updates}")
        if not 0 < self.clip < 1:
            raise ValueError(f"clip must be in (0, 1), got {self.clip}")
        if self.reward_clip is not None and not self.reward_clip > 0:
            raise ValueError(f"reward_clip must be > 0, or null for no limit, got {self.reward_clip}")
        if self.non_finite not in ("error", "drop"):
            raise ValueError(f"non_finite must be error or drop, got {self.non_finite!r}")

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest reward that counts."""
        limit = math.inf if self.reward_clip is None else self.reward_clip
        return -limit, limit

    def adjusted(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        """Bring rewards float[B, K] within the limits, and add the entropy bonus of their completions."""
        rewards = rewards.clamp(*self.limits)
        if self.entropy_bonus:
            return rewards - self.entropy_bonus * sequence_sum(rollouts.logps, rollouts.completion_mask)
        return rewards

    def check(self, accumulated: int) -> None:
        """Refuse a rollout for several steps where a step is made of several rollouts.

        Raises:
            DataError: with the remedy.
        """
        if self.updates > 1 and accumulated > 1:
            raise DataError(
                "regularisation.updates makes several steps of one rollout, accumulate_grad_batches one step of "
                "several rollouts: set one of them to 1; policy.completions_at_once saves memory too"
            )
