"""The loss whose gradient is Eq. 1, and the KL as a part of the reward."""

import itertools
import math

import pytest
import torch

from lvad.losses.advantages import leave_one_out
from lvad.losses.policy_gradient import kl_penalised, reinforce


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


def test_kl_by_hand():
    # Completion 1: (-1 + 2) + (-1 + 1) = 1, completion 2: -2 + 1 = -1 (its second token is padding).
    logps = torch.tensor([[[-1.0, -1.0], [-2.0, 7.0]]])
    ref = torch.tensor([[[-2.0, -1.0], [-1.0, 0.0]]])
    keep = torch.tensor([[[True, True], [True, False]]])
    rewards, kl = kl_penalised(torch.tensor([[1.0, 2.0]]), logps, ref, keep, beta=0.5)
    assert kl.tolist() == [[1.0, -1.0]]
    assert rewards.tolist() == [[0.5, 2.5]]


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_mean_over_all_groups_is_the_exact_gradient(beta):
    """Enumerate every group of K = 3 draws from 4 actions: the mean loss gradient is -K grad (E[r] - beta KL)."""
    num_completions, rewards = 3, torch.tensor([0.1, 1.0, -0.5, 2.0], dtype=torch.float64)
    ref_logp = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()
    theta = torch.tensor([0.3, -0.2, 0.5, 0.0], dtype=torch.float64, requires_grad=True)

    logp = theta.log_softmax(0)
    objective = (logp.exp() * (rewards - beta * (logp - ref_logp))).sum()
    (exact,) = torch.autograd.grad(objective, theta)

    mean = torch.zeros_like(theta)
    for group in itertools.product(range(4), repeat=num_completions):
        actions = torch.tensor(group)
        logps = theta.log_softmax(0)[actions].view(1, num_completions, 1)
        keep = torch.ones_like(logps, dtype=torch.bool)
        total, _ = kl_penalised(rewards[actions][None], logps.detach(), ref_logp[actions].view_as(logps), keep, beta)
        (grad,) = torch.autograd.grad(reinforce(logps, leave_one_out(total), keep), theta)
        mean += math.exp(logps.sum().item()) * grad
    torch.testing.assert_close(mean, -num_completions * exact, rtol=0, atol=1e-12)
