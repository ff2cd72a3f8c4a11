"""Advantages, the loss whose gradient is Eq. 1 with its clipped form, and the estimates of the KL beside it."""

import itertools
import math

import pytest
import torch

from lvad.losses.minimum_risk import minimum_risk
from lvad.losses.policy_gradient import (
    best_of_n,
    clipped_surrogate,
    group_relative,
    kl_k1,
    kl_k2_loss,
    kl_k3_loss,
    leave_one_out,
    minimum_risk_weights,
    next_beta,
    over_baseline,
    reinforce,
)


def test_leave_one_out_by_hand():
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


def test_reinforce_by_hand():
    # Scene 1: 2 (-1 - 2) + (-2) (-3) = 0;  scene 2: 1 (-1) + (-1) (-5) = 4.  Loss: -(0 + 4) / 2 = -2.
    logps = torch.tensor([[[-1.0, -2.0], [-3.0, -9.0]], [[-1.0, -9.0], [-2.0, -3.0]]])
    keep = torch.tensor([[[True, True], [True, False]], [[True, False], [True, True]]])
    advantages = torch.tensor([[2.0, -2.0], [1.0, -1.0]])
    assert reinforce(logps, advantages, keep).item() == -2.0


def test_gradient_is_the_advantage_on_sampled_tokens_alone():
    logps = torch.zeros(1, 2, 2, requires_grad=True)
    keep = torch.tensor([[[True, True], [True, False]]])
    reinforce(logps, torch.tensor([[3.0, -3.0]]), keep).backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == [[[-3.0, -3.0], [3.0, 0.0]]]


def test_clipped_surrogate_by_hand():
    # Ratios 1.5 and 0.5 with advantages 1 and -1, clip 0.2: min(1.5, 1.2) + min(-0.5, -0.8) = 0.4. Both are clipped.
    drawn = torch.tensor([[[-1.0, -1.0], [-2.0, 7.0]]], dtype=torch.float64)
    now = drawn.clone()
    now[0, 0, 1] += math.log(1.5)
    now[0, 1, 0] += math.log(0.5)
    keep = torch.tensor([[[True, True], [True, False]]])
    loss, share = clipped_surrogate(
        now, drawn, torch.tensor([[1.0, -1.0]], dtype=torch.float64), keep, clip_epsilon=0.2
    )
    assert loss.item() == pytest.approx(-0.4)
    assert share.item() == 1.0


def test_an_unmoved_policy_has_the_gradient_of_reinforce():
    logps = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    keep, advantages = torch.rand(2, 3, 4) < 0.7, torch.randn(2, 3, dtype=torch.float64)
    (plain,) = torch.autograd.grad(reinforce(logps, advantages, keep), logps)
    loss, share = clipped_surrogate(logps, logps.detach(), advantages, keep, clip_epsilon=0.2)
    (reused,) = torch.autograd.grad(loss, logps)
    torch.testing.assert_close(reused, plain, rtol=1e-14, atol=0)
    assert share == 0


def test_beyond_the_clip_a_completion_pushes_no_further_and_may_come_back():
    drawn, keep = torch.zeros(1, 2, 1), torch.ones(1, 2, 1, dtype=torch.bool)
    now = torch.tensor([[[0.5], [0.5]]], requires_grad=True)  # ratio 1.65, both
    loss, _ = clipped_surrogate(now, drawn, torch.tensor([[1.0, -1.0]]), keep, clip_epsilon=0.2)
    loss.backward()
    assert now.grad is not None
    assert now.grad[0, 0] == 0
    assert now.grad[0, 1] > 0


# Completion 1: d = (-1 + 2) + (-1 + 1) = 1, completion 2: d = -2 + 1 = -1 (its second token is padding).
LOGPS = torch.tensor([[[-1.0, -1.0], [-2.0, 7.0]]])
REF = torch.tensor([[[-2.0, -1.0], [-1.0, 0.0]]])
KEEP = torch.tensor([[[True, True], [True, False]]])


def test_the_kl_by_hand():
    assert kl_k1(LOGPS, REF, KEEP).tolist() == [[1.0, -1.0]]
    assert kl_k2_loss(LOGPS, REF, KEEP).item() == 0.5 + 0.5
    k3 = (math.exp(-1) - 1 + 1) + 0 + (math.exp(1) - 1 - 1)
    assert kl_k3_loss(LOGPS, REF, KEEP).item() == pytest.approx(k3)


def sequence_law(theta):
    """Log-probabilities of the 9 sequences of 2 tokens out of 3, the second given the first: float[9, 2] per token."""
    first, second = theta[0].log_softmax(-1), theta[1:].log_softmax(-1)
    pairs = list(itertools.product(range(3), repeat=2))
    return torch.stack([torch.stack([first[a], second[a, b]]) for a, b in pairs])


@pytest.fixture
def laws():
    torch.manual_seed(3)
    theta = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    return theta, sequence_law(torch.randn(4, 3, dtype=torch.float64))


def mean_gradient(loss_of, theta, ref):
    """The mean over all single draws of the gradient of a loss under draws that are held fixed."""
    logps = sequence_law(theta)
    probabilities = logps.sum(1).exp().detach()
    keep = torch.ones(1, 1, 2, dtype=torch.bool)
    losses = torch.stack([loss_of(logps[y].view(1, 1, 2), ref[y].view(1, 1, 2), keep) for y in range(9)])
    return torch.autograd.grad((probabilities * losses).sum(), theta)[0]


def test_k2_has_the_gradient_of_the_kl(laws):
    theta, ref = laws
    logps = sequence_law(theta).sum(1)
    (exact,) = torch.autograd.grad((logps.exp() * (logps - ref.sum(1))).sum(), theta)
    torch.testing.assert_close(mean_gradient(kl_k2_loss, theta, ref), exact, rtol=0, atol=1e-14)


def test_k3_has_the_gradient_of_the_other_direction_token_by_token(laws):
    """sum over prefixes of pi(prefix) KL(p_ref(. | prefix) || pi(. | prefix)), the prefixes' own law held fixed."""
    theta, ref = laws
    logps = sequence_law(theta).view(3, 3, 2)
    ref = ref.view(3, 3, 2)
    first, second = logps[:, 0, 0], logps[:, :, 1]
    ref_first, ref_second = ref[:, 0, 0].exp(), ref[:, :, 1].exp()
    reach = first.exp().detach()
    forward = -(ref_first * first).sum() - (reach[:, None] * ref_second * second).sum()
    (exact,) = torch.autograd.grad(forward, theta)
    torch.testing.assert_close(mean_gradient(kl_k3_loss, theta, ref.view(9, 2)), exact, rtol=0, atol=1e-14)
    reverse = mean_gradient(kl_k2_loss, theta, ref.view(9, 2))
    assert (exact - reverse).norm() > 0.1 * reverse.norm()


def test_values_of_k1_and_k3_are_unbiased(laws):
    theta, ref = laws
    logps = sequence_law(theta).detach()
    probabilities, keep = logps.sum(1).exp(), torch.ones(1, 9, 2, dtype=torch.bool)
    exact = (probabilities * (logps - ref).sum(1)).sum()
    k1 = kl_k1(logps[None], ref[None], keep)[0]
    each = torch.stack([kl_k3_loss(logps[y].view(1, 1, 2), ref[y].view(1, 1, 2), keep[:, :1]) for y in range(9)])
    torch.testing.assert_close((probabilities * k1).sum(), exact)
    torch.testing.assert_close((probabilities * each).sum(), exact)
    assert (each >= 0).all()


def test_the_weight_is_steered_by_at_most_a_fifth():
    assert next_beta(0.1, kl=6.0, target=5.0, rate=0.1) == pytest.approx(0.1 * 1.02)
    assert next_beta(0.1, kl=50.0, target=5.0, rate=0.1) == pytest.approx(0.1 * 1.02)
    assert next_beta(0.1, kl=0.0, target=5.0, rate=0.1) == pytest.approx(0.1 * 0.98)
    assert next_beta(0.1, kl=5.5, target=5.0, rate=0.1) == pytest.approx(0.1 * 1.01)
    assert next_beta(0.1, kl=5.0, target=5.0, rate=0.1) == 0.1
