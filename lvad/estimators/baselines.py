"""Estimators that subtract a baseline from the reward."""

from typing import Literal

import torch
from torch import Tensor

from lvad.estimators.base import Estimate, Estimator, ScoredRollouts
from lvad.losses.policy_gradient import group_relative, leave_one_out, over_baseline


class RLOO(Estimator):
    """REINFORCE leave-one-out, Eq. 1 of the paper: the baseline of a completion is the mean of its siblings' rewards.

    Unbiased: the mean is K grad E[R]. Costs nothing beside the K completions.
    """

    def estimate(self, scored: ScoredRollouts) -> Estimate:
        """Compute advantages float[B, K]; each row sums to zero."""
        return Estimate(leave_one_out(scored.rewards))


class Reinforce(Estimator):
    """REINFORCE, with or without the mean of earlier rewards as baseline.

    Unbiased: the mean is K grad E[R]. The running mean is that of the steps before, never of the step itself. With
    several processes the baseline is that of the first.

    Args:
        baseline: ``none``, or ``running_mean``, an exponential mean over the steps (0 before the first).
        momentum: of the running mean; 0 takes only the step before.

    Raises:
        ValueError: for another ``baseline``, or a momentum outside [0, 1).

    Source:
        Williams 1992.
    """

    min_completions = 1
    mean: Tensor
    """float[], nan before the first step."""

    def __init__(self, baseline: Literal["none", "running_mean"] = "none", momentum: float = 0.9) -> None:
        super().__init__()
        if baseline not in ("none", "running_mean"):
            raise ValueError(f"baseline must be none or running_mean, got {baseline!r}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self.baseline, self.momentum = baseline, momentum
        self.register_buffer("mean", torch.tensor(torch.nan))

    def estimate(self, scored: ScoredRollouts) -> Estimate:
        """Compute advantages float[B, K]; the running mean is updated afterwards."""
        if self.baseline == "none":
            return Estimate(scored.rewards)
        baseline = self.mean.nan_to_num(0.0).to(scored.rewards.dtype)
        # Without a read of the device: if no scene is kept, this is NaN and not used.
        kept = scored.is_kept.unsqueeze(1).expand_as(scored.rewards)
        now = (torch.where(kept, scored.rewards, 0.0).sum() / kept.sum()).to(self.mean.dtype)
        moved = torch.where(self.mean.isnan(), now, self.mean.lerp(now, 1 - self.momentum))
        self.mean.copy_(torch.where(kept.any(), moved, self.mean))
        return Estimate(over_baseline(scored.rewards, baseline.expand(len(scored.rewards))))


class SCST(Estimator):
    """Self-critical sequence training: the baseline is the reward of the greedy completion.

    Unbiased: the mean is K grad E[R]. Costs one more decode per scene, after the same prompt. Its variance is about
    that of RLOO plus K times the squared distance between greedy and mean reward: best for a policy with low entropy.

    Source:
        Rennie et al. 2017 (arXiv:1612.00563).
    """

    min_completions = 1

    def estimate(self, scored: ScoredRollouts) -> Estimate:
        """Compute advantages float[B, K]; they have one sign where the greedy completion is best or worst."""
        greedy, is_finite = scored.greedy_rewards()
        is_kept = scored.is_kept & is_finite  # a scene without a baseline has no advantages
        logged = {"reward/greedy": greedy[is_kept].mean()}
        return Estimate(over_baseline(scored.rewards, greedy), is_kept=is_kept, logged=logged)


class GRPO(Estimator):
    """Group relative advantages.

    With the defaults those of the source: biased, by the group's standard deviation (a scene whose rewards differ
    little weighs as much as one whose rewards differ a lot) and by the length (the tokens of a long completion weigh
    less). With both switched off it is Dr. GRPO: the mean is (K - 1) grad E[R].

    Args:
        scale_by_std: divide by the group's standard deviation.
        per_token: divide each completion's advantage by its length in tokens.

    Source:
        Shao et al. 2024 (arXiv:2402.03300); Liu et al. 2025 (arXiv:2503.20783), Dr. GRPO.
    """

    def __init__(self, scale_by_std: bool = True, per_token: bool = True) -> None:
        super().__init__()
        self.scale_by_std, self.per_token = scale_by_std, per_token

    def estimate(self, scored: ScoredRollouts) -> Estimate:
        """Compute advantages float[B, K]."""
        advantages = group_relative(scored.rewards, self.scale_by_std)
        if self.per_token:
            advantages = advantages / scored.rollouts.completion_mask.sum(-1)
        return Estimate(advantages)
