"""Leave-one-out advantages."""

import pytest
import torch

from lvad.losses.advantages import (
    best_of_n,
    group_relative,
    leave_one_out,
    minimum_risk_weights,
    over_baseline,
)
from lvad.losses.minimum_risk import minimum_risk
from lvad.losses.policy_gradient import reinforce


def test_by_hand():
    # Row 1: rewards 1, 2, 6.  1 - (2 + 6) / 2 = -3;  2 - (1 + 6) / 2 = -1.5;  6 - (1 + 2) / 2 = 4.5.
    # Row 2: two equal and one apart.  0 - (0 + 3) / 2 = -1.5 twice;  3 - 0 = 3.
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    assert leave_one_out(rewards).tolist() == [[-3.0, -1.5, 4.5], [-1.5, -1.5, 3.0]]


def test_rows_sum_to_zero_and_shifts_cancel():
    rewards = torch.randn(5, 7, dtype=torch.float64)
    advantages = leave_one_out(rewards)
    torch.testing.assert_close(advantages.sum(1), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(leave_one_out(rewards + 100), advantages)


def test_one_completion_has_no_baseline():
    with pytest.raises(ValueError, match="num_completions >= 2, got 1"):
        leave_one_out(torch.zeros(3, 1))


def test_over_a_baseline_by_hand():
    assert over_baseline(torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([1.0, 4.0])).tolist() == [
        [0.0, 1.0],
        [-1.0, 1.0],
    ]


def test_group_relative_by_hand():
    # Mean 3, deviations -2, -1, 3; variance (4 + 1 + 9) / 2 = 7.
    rewards = torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64)
    assert group_relative(rewards, scale_by_std=False).tolist() == [[-2.0, -1.0, 3.0]]
    scaled = group_relative(rewards, scale_by_std=True, epsilon=0.0)
    torch.testing.assert_close(scaled, torch.tensor([[-2.0, -1.0, 3.0]], dtype=torch.float64) / 7**0.5)
    assert group_relative(torch.full((1, 4), 0.3), scale_by_std=True).abs().max() < 1e-3


def test_unscaled_groups_are_leave_one_out_but_for_a_factor():
    rewards = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(group_relative(rewards, scale_by_std=False), leave_one_out(rewards) * 4 / 5)


def test_best_of_n_takes_the_first_of_the_best():
    rewards = torch.tensor([[1.0, 3.0, 3.0], [0.0, -1.0, -1.0]])
    assert best_of_n(rewards).tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_minimum_risk_weights_are_the_gradient_of_minimum_risk():
    torch.manual_seed(0)
    logps = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    rewards, is_first = torch.randn(3, 4, dtype=torch.float64), torch.ones(3, 4, dtype=torch.bool)
    is_first[1, 2] = False
    (exact,) = torch.autograd.grad(minimum_risk(logps, -rewards, 0.7, is_first), logps)
    weights = minimum_risk_weights(rewards, logps.detach(), 0.7, is_first)
    (grad,) = torch.autograd.grad(reinforce(logps[..., None], weights, torch.ones(3, 4, 1, dtype=torch.bool)), logps)
    torch.testing.assert_close(grad, exact, rtol=1e-12, atol=1e-15)
    assert weights[1, 2] == 0


@pytest.mark.parametrize("what", [best_of_n, lambda r: group_relative(r, True)])
def test_groups_of_one_are_refused(what):
    with pytest.raises(ValueError, match="num_completions >= 2, got 1"):
        what(torch.zeros(3, 1))


@pytest.mark.parametrize("reward", [0.7, 1e-3, 123.456, -1 / 3])
def test_equal_rewards_leave_nothing_for_an_optimizer_to_amplify(reward):
    """Exactly zero, not what rounding leaves of K R - sum R."""
    rewards, logps = torch.full((2, 7), reward), torch.randn(2, 7)
    first = torch.ones(2, 7, dtype=torch.bool)
    assert (leave_one_out(rewards) == 0).all()
    assert (group_relative(rewards, scale_by_std=True) == 0).all()
    assert (minimum_risk_weights(rewards, logps, 0.5, first) == 0).all()
