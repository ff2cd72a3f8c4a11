"""The experience of a batch, kept for its later updates, and what is said of it."""

import pytest
import torch

from lvad.estimators import Estimate
from lvad.losses.policy_gradient import clipped_surrogate, reinforce
from lvad.rollouts import Experience, RolloutReuse, RolloutRewards, experience_stats
from lvad.types import Rollouts, Scores


def make_rollouts():
    mask = torch.tensor([[[True, True, False], [True, True, True]]])
    logps = torch.tensor([[[-1.0, -2.0, 0.0], [-0.5, -0.5, -1.0]]])
    return Rollouts(torch.zeros(1, 2, 3, dtype=torch.long), mask, logps, -logps, ~mask.any(-1), [["a", "b"]])


def make_experience(advantages=((1.0, -1.0),)):
    rewards = torch.tensor([[0.5, 0.25]])
    rewarded = RolloutRewards(Scores(rewards, {}), torch.tensor([True]), rewards)
    return Experience(make_rollouts(), rewarded, Estimate(torch.tensor(advantages)), {})


def test_each_update_after_the_first_finds_the_first_ones_experience():
    reuse, experience = RolloutReuse(3, clip_epsilon=0.2), make_experience()
    seen = []
    for _ in reuse.each_update():
        if reuse.is_first:
            reuse.keep(experience)
        seen.append((reuse.is_first, reuse.experience is experience))
    assert seen == [(True, True), (False, True), (False, True)]


def test_nothing_is_kept_beyond_the_last_update():
    reuse = RolloutReuse(2, clip_epsilon=0.2)
    for _ in reuse.each_update():
        if reuse.is_first:
            reuse.keep(make_experience())
    assert reuse.is_first
    with pytest.raises(RuntimeError, match="first update"):
        _ = reuse.experience


def test_outside_of_an_optimizer_step_every_call_is_a_first_one():
    reuse = RolloutReuse(1, clip_epsilon=0.2)
    for experience in (make_experience(), make_experience(advantages=((2.0, -2.0),))):
        assert reuse.is_first
        reuse.keep(experience)
        assert reuse.experience is experience


def test_one_update_is_plain_reinforce():
    reuse, experience = RolloutReuse(1, clip_epsilon=0.2), make_experience()
    reuse.keep(experience)
    logps = experience.rollouts.logps
    loss, stats = reuse.policy_loss(logps)
    assert loss == reinforce(logps, experience.estimate.advantages, experience.rollouts.completion_mask)
    assert stats == {}


def test_later_updates_are_held_to_the_probabilities_of_the_first():
    reuse, experience = RolloutReuse(2, clip_epsilon=0.2), make_experience()
    mask, advantages = experience.rollouts.completion_mask, experience.estimate.advantages
    first, second = experience.rollouts.logps + 0.125, experience.rollouts.logps - 0.25
    losses = []
    for logps in (first, second):
        if not losses:
            reuse.keep(experience)
        losses.append(reuse.policy_loss(logps))
    # The first ratio is 1 although the sampler's own numbers differ: -(1 * 1 + 1 * -1) = 0, nothing clipped.
    assert losses[0][0] == 0
    assert losses[0][1] == {"train/clipped": 0}
    expected = clipped_surrogate(second, first, advantages, mask, 0.2)
    assert (losses[1][0], losses[1][1]["train/clipped"]) == expected


def test_a_new_batch_has_probabilities_of_its_own():
    reuse, experience = RolloutReuse(2, clip_epsilon=0.2), make_experience()
    for logps in (experience.rollouts.logps, experience.rollouts.logps - 1):
        reuse.keep(experience)
        assert reuse.policy_loss(logps)[0] == 0


def test_stats_leave_out_the_scenes_that_the_estimator_dropped():
    scores = Scores(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), {})
    tokens, mask, logps, entropies, is_truncated = (torch.cat([x, x]) for x in make_rollouts()[:5])
    rollouts = Rollouts(tokens, mask, logps, entropies, is_truncated, [["a", "b"], ["a", "c"]])
    rewarded = RolloutRewards(
        scores, torch.tensor([True, True]), scores.total, kl_stats={"train/kl": torch.tensor(0.5)}
    )
    estimate = Estimate(
        torch.zeros(2, 2), logged={"critic/loss": torch.tensor(2.0)}, is_kept=torch.tensor([True, False])
    )
    stats = experience_stats(rollouts, rewarded, estimate)
    assert stats["reward/mean"] == 2
    assert stats["reward/dropped"] == 1
    assert (stats["train/kl"], stats["critic/loss"]) == (0.5, 2)
    assert stats["rollout/common"] == 0.5
