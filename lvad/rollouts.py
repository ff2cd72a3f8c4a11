"""Drawing completions, and what can be said of them without a reward."""

import torch
from torch import Tensor

from lvad.ops import masked_mean
from lvad.types import Batch, Policy, Prefix, Rollouts


def sample(policy: Policy, prefix: Prefix, num_completions: int, seed: int | None = None) -> Rollouts:
    """Draw K completions per scene.

    Args:
        policy: the model.
        prefix: B encoded scenes.
        num_completions: K.
        seed: draw with this seed and leave the random state as it was: what is shown of the fixed validation
            scenes must not change what is trained.
    """
    if seed is None:
        return policy.generate(prefix, num_completions)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return policy.generate(prefix, num_completions)


def first_scenes(batch: Batch, count: int) -> Batch:
    """The first scenes of a batch."""
    return Batch(
        ids=batch.ids[:count],
        frames=batch.frames[:count],
        actions=batch.actions[:count],
        reasons=batch.reasons[:count],
        captions=batch.captions[:count],
        facts=batch.facts[:count],
    )


def rollout_stats(rollouts: Rollouts) -> dict[str, Tensor]:
    """Entropy in nats per token, length in tokens and share of truncated completions: float[] each."""
    mask = rollouts.completion_mask
    return {
        "rollout/entropy": masked_mean(rollouts.entropies, mask),
        "rollout/length": mask.sum(-1).float().mean(),
        "rollout/truncated": rollouts.is_truncated.float().mean(),
    }


def advantage_stats(rewards: Tensor, advantages: Tensor) -> dict[str, Tensor]:
    """What a group of K rewards can teach.

    Args:
        rewards: float[B, K] before the KL term.
        advantages: float[B, K] as used.

    Returns:
        Mean reward and mean of the best of K (Fig. 6 of the paper), standard deviation of the advantages, and the
        share of scenes whose K rewards are all equal, which teach nothing.
    """
    return {
        "reward/mean": rewards.mean(),
        "reward/best": rewards.amax(1).mean(),
        "advantage/std": advantages.std(),
        "advantage/zero_spread": (rewards.amax(1) == rewards.amin(1)).float().mean(),
    }
