"""What estimators remember between steps, and what they refuse."""

import pytest
import torch

from lvad.estimators import A2C, GRPO, RLOO, SCST, BestOfN, Estimator, MinimumRisk, Reinforce, ScoredRollouts
from lvad.estimators.critic import explained_variance
from lvad.types import Rollouts


def make_scored(rewards, is_kept=None, states=None, greedy=None, lengths=None):
    rewards = torch.tensor(rewards)
    shape = (*rewards.shape, 3)
    lengths = torch.tensor(lengths) if lengths else torch.full(rewards.shape, 3)
    mask = torch.arange(3) < lengths.unsqueeze(-1)
    tokens = torch.arange(mask.numel()).view(shape)
    rollouts = Rollouts(tokens, mask, -torch.ones(shape), torch.ones(shape), lengths < 0, [])
    kept = torch.ones(len(rewards), dtype=torch.bool) if is_kept is None else torch.tensor(is_kept)
    greedy_rewards = lambda: (torch.tensor(greedy), torch.ones(len(rewards)).bool())  # noqa: E731
    return ScoredRollouts(rewards, kept, rollouts, states=lambda: states, greedy_rewards=greedy_rewards)


def test_the_running_mean_is_that_of_earlier_steps():
    estimator = Reinforce("running_mean", momentum=0.5)
    assert estimator.estimate(make_scored([[1.0, 3.0]])).advantages.tolist() == [[1.0, 3.0]]
    assert estimator.estimate(make_scored([[4.0, 6.0]])).advantages.tolist() == [[2.0, 4.0]]  # mean 2
    assert estimator.mean == 3.5  # halfway from 2 to 5
    estimator.estimate(make_scored([[100.0, 100.0], [5.5, 5.5]], is_kept=[False, True]))
    assert estimator.mean == 4.5  # what is dropped takes no part
    estimator.estimate(make_scored([[100.0, 100.0]], is_kept=[False]))
    assert estimator.mean == 4.5


def test_scst_compares_with_the_greedy_completion():
    estimate = SCST().estimate(make_scored([[1.0, 3.0], [0.0, 0.5]], greedy=[2.0, 1.0]))
    assert estimate.advantages.tolist() == [[-1.0, 1.0], [-1.0, -0.5]]
    assert estimate.logged["reward/greedy"] == 1.5


def test_grpo_divides_by_the_length():
    scored = make_scored([[0.0, 2.0]], lengths=[[1, 2]])
    plain = GRPO(scale_by_std=False).estimate(scored).advantages
    assert plain.tolist() == [[-1.0, 0.5]]


def test_minimum_risk_counts_a_repeated_completion_once():
    scored = make_scored([[1.0, 1.0, 0.0]])
    tokens = scored.rollouts.tokens.clone()
    tokens[0, 1] = tokens[0, 0]
    scored = scored._replace(rollouts=scored.rollouts._replace(tokens=tokens))
    weights = MinimumRisk(0.5).estimate(scored).advantages
    # Two distinct completions, equally probable: 0.5 * 1/2 * (1 - 1/2).
    torch.testing.assert_close(weights, torch.tensor([[0.125, 0.0, -0.125]]))


def test_the_critic_learns_alone_at_first_then_is_the_baseline():
    torch.manual_seed(0)
    estimator = A2C(lr=1e-2, hidden_size=16, warmup_steps=150)
    estimator.prepare(8)
    states = torch.randn(4, 8)
    worth = torch.tensor([0.1, 0.9, -0.5, 0.4])
    optimizer = torch.optim.Adam(estimator.parameters(), lr=estimator.lr)
    for _ in range(150):
        estimate = estimator.estimate(make_scored([[w - 0.1, w + 0.1] for w in worth.tolist()], states=states))
        assert (estimate.advantages == 0).all()
        assert estimate.loss is not None
        optimizer.zero_grad()
        estimate.loss.backward()
        optimizer.step()
    estimate = estimator.estimate(make_scored([[w - 0.1, w + 0.1] for w in worth.tolist()], states=states))
    torch.testing.assert_close(estimate.advantages, torch.tensor([[-0.1, 0.1]] * 4), rtol=0, atol=0.02)
    assert estimate.logged["critic/explained_variance"] > 0.9


def test_the_critic_sends_no_gradient_to_the_states_it_reads():
    estimator = A2C(warmup_steps=0)
    estimator.prepare(8)
    states = torch.randn(2, 8, requires_grad=True)
    estimate = estimator.estimate(make_scored([[1.0, 0.0]] * 2, states=states.detach()))
    assert estimate.loss is not None
    estimate.loss.backward()
    assert states.grad is None
    assert not estimate.advantages.requires_grad


def test_a_dropped_scene_takes_no_part_in_the_critics_loss():
    # The critic begins with a guess of 0: the loss is the mean of 1 and 9, the variance explained that of a constant.
    estimator = A2C(warmup_steps=0)
    estimator.prepare(8)
    scored = make_scored([[1.0, 3.0], [100.0, 0.0]], is_kept=[True, False], states=torch.ones(2, 8))
    estimate = estimator.estimate(scored)
    assert estimate.logged["critic/loss"] == 5
    assert estimate.logged["critic/explained_variance"] == 0


def test_a_step_without_a_kept_scene_leaves_the_critic_alone():
    estimator = A2C(warmup_steps=0)
    estimator.prepare(8)
    estimate = estimator.estimate(make_scored([[9.0, 9.0]], is_kept=[False], states=torch.ones(1, 8)))
    assert estimate.loss is not None
    estimate.loss.backward()
    assert all(p.grad is None or (p.grad == 0).all() for p in estimator.parameters())


def test_explained_variance_by_hand():
    targets = torch.tensor([[1.0, 3.0]])
    assert explained_variance(targets, targets) == 1
    assert explained_variance(torch.tensor([[2.0, 2.0]]), targets) == 0
    assert explained_variance(torch.tensor([[3.0, 1.0]]), targets) == -3
    assert explained_variance(targets, torch.ones(1, 2)) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reinforce("mean"), "baseline must be none or running_mean, got 'mean'"),
        (lambda: Reinforce(momentum=1.0), r"momentum must be in \[0, 1\), got 1.0"),
        (lambda: A2C(lr=0), "lr must be > 0"),
        (lambda: A2C(hidden_size=0), "hidden_size must be >= 1"),
        (lambda: A2C(warmup_steps=-1), "warmup_steps must be >= 0"),
        (lambda: MinimumRisk(0), "sharpness must be > 0"),
    ],
)
def test_senseless_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", [RLOO, GRPO, BestOfN, MinimumRisk])
def test_groups_need_two(kind):
    estimator: Estimator = kind()
    assert estimator.min_completions == 2
