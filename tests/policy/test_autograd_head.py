"""Log-probabilities of drawn tokens and their gradients against PyTorch's own differentiation of the distribution."""

import pytest
import torch

from lvad.ops import gather_logps
from lvad.policy import autograd_functions
from lvad.policy.autograd_functions import TokenLogps
from lvad.policy.sampling import Sampling, next_token_logps

NUM_ROWS, WIDTH, VOCABULARY = 7, 5, 11


def test_by_hand():
    """Logits (ln 3, 0) at temperature 1 are q = (3/4, 1/4); the gradient of log q(0) is (1/4, -1/4)."""
    states = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[3.0], [1.0]], dtype=torch.float64).log().requires_grad_()
    logps = TokenLogps.apply(states, weight, torch.tensor([0]), 1.0, lambda logits, _: logits.log_softmax(-1))
    assert logps.exp().tolist() == pytest.approx([0.75])
    logps.sum().backward()
    assert weight.grad.flatten().tolist() == pytest.approx([0.25, -0.25])
    assert states.grad.item() == pytest.approx(0.25 * torch.tensor(3.0).log().item())


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    states = torch.randn(NUM_ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(1, VOCABULARY, (NUM_ROWS,))
    banned = torch.rand(NUM_ROWS, VOCABULARY) < 0.3
    banned[torch.arange(NUM_ROWS), tokens] = False
    return states, weight, tokens, banned


@pytest.mark.parametrize("law", [{}, {"temperature": 1.7}, {"temperature": 0.6, "top_k": 4, "top_p": 0.8}], ids=str)
@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
def test_values_and_gradients_are_those_of_the_distribution(inputs, law, rows_at_once, monkeypatch):
    monkeypatch.setattr(autograd_functions, "LOGITS_AT_ONCE", rows_at_once * VOCABULARY)
    states, weight, tokens, banned = inputs
    sampling, seen = Sampling(**law), []

    def next_logps(logits, rows):
        seen.append(logits.shape)
        return next_token_logps(logits, sampling, banned[rows], tokens[rows])

    found = TokenLogps.apply(states, weight, tokens, sampling.temperature, next_logps)
    expected = gather_logps(next_token_logps(states @ weight.t(), sampling, banned, tokens), tokens)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    grad = torch.linspace(-1, 2, NUM_ROWS, dtype=torch.float64)
    ours = torch.autograd.grad(found, [states, weight], grad)
    theirs = torch.autograd.grad(expected, [states, weight], grad)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert max(len for len, _ in seen) <= rows_at_once


@pytest.mark.parametrize("trained", ["states", "weight", "neither"])
def test_a_gradient_that_nobody_wants_is_not_made(inputs, trained):
    states, weight, tokens, _ = inputs
    states.requires_grad_(trained == "states"), weight.requires_grad_(trained == "weight")
    logps = TokenLogps.apply(states, weight, tokens, 1.0, lambda logits, _: logits.log_softmax(-1))
    assert logps.requires_grad == (trained != "neither")
    if logps.requires_grad:
        logps.sum().backward()
    assert (states.grad is not None, weight.grad is not None) == (trained == "states", trained == "weight")


@pytest.mark.parametrize("half", ["weights", "autocast"])
def test_half_precision_rounds_as_a_linear_layer_does(inputs, half, monkeypatch):
    monkeypatch.setattr(autograd_functions, "LOGITS_AT_ONCE", 3 * VOCABULARY)
    kind = torch.float32 if half == "autocast" else torch.bfloat16
    states, weight = (x.detach().to(kind).requires_grad_() for x in inputs[:2])
    tokens, grad = inputs[2], torch.linspace(-1, 2, NUM_ROWS)
    with torch.autocast("cpu", torch.bfloat16, enabled=half == "autocast"):
        found = TokenLogps.apply(states, weight, tokens, 1.0, lambda logits, _: logits.float().log_softmax(-1))
        logits = torch.nn.functional.linear(states, weight)
        expected = gather_logps(logits.float().log_softmax(-1), tokens)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    ours = torch.autograd.grad(found, [states, weight], grad)
    theirs = torch.autograd.grad(expected, [states, weight], grad)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype == kind
        assert (one - other).float().norm() <= 1e-2 * other.float().norm()


def test_no_tokens_have_no_log_probabilities(inputs):
    states, weight, tokens, _ = inputs
    logps = TokenLogps.apply(states[:0], weight, tokens[:0], 1.0, lambda logits, _: logits.log_softmax(-1))
    assert logps.shape == (0,)
    logps.sum().backward()
    assert not weight.grad.any()
