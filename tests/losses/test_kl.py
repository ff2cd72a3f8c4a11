"""Estimates of the KL, their gradients, and the steering of their weight."""

import itertools
import math

import pytest
import torch

from lvad.losses.kl import kl_k1, kl_k2_loss, kl_k3_loss, next_beta

# Completion 1: d = (-1 + 2) + (-1 + 1) = 1, completion 2: d = -2 + 1 = -1 (its second token is padding).
LOGPS = torch.tensor([[[-1.0, -1.0], [-2.0, 7.0]]])
REF = torch.tensor([[[-2.0, -1.0], [-1.0, 0.0]]])
KEEP = torch.tensor([[[True, True], [True, False]]])


def test_by_hand():
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
