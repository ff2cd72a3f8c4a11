"""The loss whose gradient is Eq. 1, and its clipped form."""

import math

import pytest
import torch

from lvad.losses.policy_gradient import clipped_surrogate, reinforce


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
    loss, share = clipped_surrogate(now, drawn, torch.tensor([[1.0, -1.0]], dtype=torch.float64), keep, clip=0.2)
    assert loss.item() == pytest.approx(-0.4)
    assert share.item() == 1.0


def test_an_unmoved_policy_has_the_gradient_of_reinforce():
    logps = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    keep, advantages = torch.rand(2, 3, 4) < 0.7, torch.randn(2, 3, dtype=torch.float64)
    (plain,) = torch.autograd.grad(reinforce(logps, advantages, keep), logps)
    loss, share = clipped_surrogate(logps, logps.detach(), advantages, keep, clip=0.2)
    (reused,) = torch.autograd.grad(loss, logps)
    torch.testing.assert_close(reused, plain, rtol=1e-14, atol=0)
    assert share == 0


def test_beyond_the_clip_a_completion_pushes_no_further_and_may_come_back():
    drawn, keep = torch.zeros(1, 2, 1), torch.ones(1, 2, 1, dtype=torch.bool)
    now = torch.tensor([[[0.5], [0.5]]], requires_grad=True)  # ratio 1.65, both
    loss, _ = clipped_surrogate(now, drawn, torch.tensor([[1.0, -1.0]]), keep, clip=0.2)
    loss.backward()
    assert now.grad is not None
    assert now.grad[0, 0] == 0
    assert now.grad[0, 1] > 0
