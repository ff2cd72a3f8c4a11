"""Drawing completions, and what can be said of them without a reward."""

from collections import Counter

import torch
from torch import Tensor

from lvad.losses.advantages import leave_one_out
from lvad.ops import seeded
from lvad.types import Batch, Policy, Prefix, Rollouts, SceneSamples, Scores


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
    with seeded(seed, prefix.embeds.device):
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
        recordings=batch.recordings[:count],
        taxonomy=batch.taxonomy,
    )


def rollout_stats(rollouts: Rollouts) -> dict[str, Tensor]:
    """What can be said without a reward: float[] each.

    Returns:
        Entropy in nats per token, length in tokens, share of truncated completions, and the share of completions that
        are the most common text of all.
    """
    mask = rollouts.completion_mask
    entropy = rollouts.entropies.sum() / mask.sum()  # 0 where masked out; every completion has a token
    texts = [text for row in rollouts.texts for text in row]
    most_common = Counter(texts).most_common(1)[0][1]
    return {
        "rollout/entropy": entropy,
        "rollout/length": mask.sum(-1).float().mean(),
        "rollout/truncated": rollouts.is_truncated.float().mean(),
        "rollout/common": torch.tensor(most_common / len(texts)),
    }


def reward_stats(scores: Scores, advantages: Tensor, is_kept: Tensor) -> dict[str, Tensor]:
    """What the groups of K rewards can teach.

    Args:
        scores: of B scenes, before any penalty.
        advantages: float[B, K] as used.
        is_kept: bool[B], False on scenes whose rewards were not finite.

    Returns:
        float[] each: the number of scenes dropped and, over the others (NaN if there are none), the mean reward and
        the mean of every term, the mean of the best of K (Fig. 6 of the paper), the standard deviation of the
        advantages, and the share of scenes whose K rewards are all equal, which teach nothing. All on the CPU, from one
        read of the device.
    """
    columns = [is_kept.unsqueeze(1).expand_as(advantages), scores.total, advantages, *scores.terms.values()]
    host_kept, *host = torch.stack([column.float() for column in columns]).cpu()
    is_kept = host_kept[:, 0].bool()
    rewards, kept, *terms = (column[is_kept] for column in host)
    best, worst = rewards.sort(1).values[:, [-1, 0]].unbind(1)  # no largest of nothing
    return {
        "reward/dropped": (~is_kept).sum().float(),
        "reward/mean": rewards.mean(),
        "reward/best": best.mean(),
        "advantage/std": kept.std(correction=0),
        "advantage/zero_spread": (best == worst).float().mean(),
        **{f"reward/{name}": term.mean() for name, term in zip(scores.terms, terms, strict=True)},
    }


def scene_samples(scenes: Batch, rollouts: Rollouts, scores: Scores) -> list[SceneSamples]:
    """K completions of each of B scenes for the run's record; the advantages are those over their siblings."""
    can_compare = scores.total.shape[1] > 1
    advantages = leave_one_out(scores.total).tolist() if can_compare else [[]] * len(scenes.ids)
    return [
        SceneSamples(
            id=scenes.ids[b],
            frames=scenes.frames[b].cpu(),
            texts=rollouts.texts[b],
            rewards=scores.total[b].tolist(),
            advantages=advantages[b],
            terms={name: term[b].tolist() for name, term in scores.terms.items()},
        )
        for b in range(len(scenes.ids))
    ]
