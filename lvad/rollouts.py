"""Rollouts: how completions are drawn, what is logged of them, and how they are kept for the updates of one batch."""

from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from lvad.data.collate import scenes_at
from lvad.estimators import Estimate
from lvad.losses.policy_gradient import clipped_surrogate, leave_one_out, reinforce
from lvad.ops import seeded
from lvad.ranks import mean_over_ranks, num_ranks
from lvad.types import Batch, Policy, Prefix, Rollouts, SceneSamples, Scores


def sample(policy: Policy, prefix: Prefix, num_completions: int, seed: int | None = None) -> Rollouts:
    """Draw K completions per scene, with a seed of their own if one is given.

    Args:
        policy: the model.
        prefix: B encoded prompts.
        num_completions: K.
        seed: of this draw only; the random state is restored, so that what is shown of the validation scenes does
            not change what is trained.
    """
    if seed is None:
        return policy.generate(prefix, num_completions)
    with seeded(seed, prefix.embeds.device):
        return policy.generate(prefix, num_completions)


def first_scenes(batch: Batch, count: int) -> Batch:
    """Return the first scenes of a batch, all of them where there are no more."""
    return scenes_at(batch, range(len(batch.ids))[:count])


def rollout_stats(rollouts: Rollouts) -> dict[str, Tensor]:
    """Statistics of the completions that need no reward: float[] each.

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
    """Statistics of the rewards and advantages of groups of K completions: float[] each.

    Args:
        scores: of B scenes, before any penalty.
        advantages: float[B, K] as used.
        is_kept: bool[B], False on scenes whose rewards were not finite.

    Returns:
        The number of scenes dropped and, over the others (NaN if there are none), the mean reward and
        the mean of every term, the mean of the best of K (Fig. 6 of the paper), the standard deviation of the
        advantages, and the share of scenes whose K rewards are all equal, which teach nothing. All on the CPU, from one
        read of the device.
    """
    columns = [is_kept.unsqueeze(1).expand_as(advantages), scores.total, advantages, *scores.terms.values()]
    host_kept, *host = torch.stack([column.float() for column in columns]).cpu()
    is_kept = host_kept[:, 0].bool()
    rewards, kept, *terms = (column[is_kept] for column in host)
    best, worst = rewards.sort(1).values[:, [-1, 0]].unbind(1)  # defined without any scene, unlike amax
    return {
        "reward/dropped": (~is_kept).sum().float(),
        "reward/mean": rewards.mean(),
        "reward/best": best.mean(),
        "advantage/std": kept.std(correction=0),
        "advantage/zero_spread": (best == worst).float().mean(),
        **{f"reward/{name}": term.mean() for name, term in zip(scores.terms, terms, strict=True)},
    }


def scene_samples(scenes: Batch, rollouts: Rollouts, scores: Scores) -> list[SceneSamples]:
    """Put K completions of each of B scenes on record, with their leave-one-out advantages."""
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


class RolloutRewards(NamedTuple):
    """The rewards of K completions of each of B scenes, and what they were made of.

    An estimator is given ``adjusted`` and ``is_kept`` (in ``lvad.estimators.ScoredRollouts``); the rest is for the KL
    loss and for the log.
    """

    scores: Scores
    """The reward's own scores, before any limit or penalty."""
    is_kept: Tensor
    """bool[B], False on scenes whose scores were not finite."""
    adjusted: Tensor
    """float[B, K], the total scores within their limits, plus the entropy bonus, minus the KL penalty."""
    ref_logps: Tensor | None = None
    """float[B, K, T] under the reference; None without a KL."""
    kl_stats: Mapping[str, Tensor] = MappingProxyType({})
    """float[] of the KL, to log."""


class Experience(NamedTuple):
    """The completions drawn for a batch, with their rewards and advantages."""

    rollouts: Rollouts
    rewards: RolloutRewards
    estimate: Estimate
    stats: dict[str, Tensor]
    """float[] to log."""


class RolloutReuse:
    """Keeps the experience of a batch from its first update to its last.

    Lightning calls ``training_step`` anew for each update of an optimizer step and passes nothing from one call to the
    next. What the later calls need of the first is held here, between the hook ``optimizer_step``, which counts the
    updates, and ``training_step``. Outside of that hook (accumulated batches, a trial step) every call is a first one.

    Args:
        num_updates: optimizer steps per rollout.
        clip_epsilon: how far the ratio of probabilities may go from 1 where there are several.
    """

    def __init__(self, num_updates: int, clip_epsilon: float) -> None:
        self.num_updates, self.clip_epsilon = num_updates, clip_epsilon
        self.is_first = True
        self._experience: Experience | None = None
        self._old_logps: Tensor | None = None

    def each_update(self) -> Iterator[int]:
        """Yield the number of each update of one batch, and drop its experience at the end."""
        for update in range(self.num_updates):
            self.is_first = update == 0
            yield update
        self.is_first, self._experience, self._old_logps = True, None, None

    def keep(self, experience: Experience) -> None:
        """Keep the experience of a new batch in place of the last one's."""
        self._experience, self._old_logps = experience, None

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
        """Compute the policy gradient as a loss, float[]; with several updates also the share of clipped ratios.

        Args:
            logps: float[B, K, T] of the kept rollouts under the present policy.
        """
        advantages, mask = self.experience.estimate.advantages, self.experience.rollouts.completion_mask
        if self.num_updates == 1:
            return reinforce(logps, advantages, mask), {}
        if self._old_logps is None:
            # Those of this pass and not of the sampler, so that rounding leaves the first ratio at 1.
            self._old_logps = logps.detach()
        loss, share = clipped_surrogate(logps, self._old_logps, advantages, mask, self.clip_epsilon)
        return loss, {"train/clipped": share}


def without_dropped_scenes(estimate: Estimate, is_kept: Tensor) -> Estimate:
    """Set the advantages of scenes that take no part to 0.

    Args:
        estimate: of the estimator.
        is_kept: bool[B] of the rewards; the estimate's own ``is_kept``, if it has one, takes its place.
    """
    is_kept = is_kept if estimate.is_kept is None else estimate.is_kept
    return estimate._replace(advantages=estimate.advantages.where(is_kept.unsqueeze(1), 0.0), is_kept=is_kept)


def experience_stats(rollouts: Rollouts, rewards: RolloutRewards, estimate: Estimate) -> dict[str, Tensor]:
    """Collect what is logged of a batch's experience: float[] each.

    Args:
        rollouts: of B scenes.
        rewards: of their completions.
        estimate: its advantages as used, and which scenes take part.
    """
    is_kept = rewards.is_kept if estimate.is_kept is None else estimate.is_kept
    of_rewards = reward_stats(rewards.scores, estimate.advantages, is_kept)
    return {**rollout_stats(rollouts), **rewards.kl_stats, **of_rewards, **estimate.logged}


def values_of_all_ranks(values: dict[str, Tensor], device: torch.device, may_drop: bool) -> dict[str, Tensor]:
    """Average what a step logs over the ranks, float[] on the CPU; dropped scenes are added up instead.

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
