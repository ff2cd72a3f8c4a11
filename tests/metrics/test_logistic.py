"""The regression has one optimum, worked out by hand where it can be."""

import math

import pytest
import torch
import torch.nn.functional as F

from lvad.metrics.logistic import fit_logistic

ONE = torch.ones(2, dtype=torch.float64)


def test_two_examples_by_hand():
    # x = 1 is true, x = -1 is not. 2 log(1 + exp(-w)) + penalty w^2 / 2 is least where 2 sigmoid(-w) = penalty w.
    # At w = 1 that is a penalty of 2 / (1 + e). By symmetry the intercept is 0.
    model = fit_logistic(torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0], [0.0]]), ONE, 2 / (1 + math.e))
    torch.testing.assert_close(model.weights, torch.ones(1, 1, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.offsets, torch.zeros(1, dtype=torch.float64), atol=1e-5, rtol=0)


def test_without_a_feature_that_tells_the_rate_decides():
    # 2 of 4 are true: the smoothed log-odds are log(2.5 / 2.5) = 0, which is the optimum.
    model = fit_logistic(torch.ones(4, 3), torch.tensor([[1.0], [1.0], [0.0], [0.0]]), torch.ones(4), 0.5)
    torch.testing.assert_close(model.logits(torch.ones(4, 3).double()), torch.zeros(4, 1).double(), atol=1e-6, rtol=0)


def test_the_gradient_vanishes_at_the_optimum():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    y = (torch.rand(30, 3, generator=generator, dtype=torch.float64) > 0.6).double()
    n = torch.rand(30, generator=generator, dtype=torch.float64) + 0.5
    model = fit_logistic(x, y, n, 0.3)
    start = (((n @ y) + 0.5) / (n.sum() + 1)).logit()
    mean = (n @ x) / n.sum()
    weights = model.weights.clone().requires_grad_()
    intercepts = (model.offsets + mean @ model.weights - start).clone().requires_grad_()
    logits = (x - mean) @ weights + intercepts + start
    entropy = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    loss = (n[:, None] * entropy).sum() + 0.15 * (weights.square().sum() + intercepts.square().sum())
    loss.backward()
    for part in (weights, intercepts):
        assert part.grad is not None
        assert part.grad.abs().max() < 1e-4


def test_an_example_that_counts_twice_is_two_examples():
    x, y = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [1.0], [0.0]])
    twice = fit_logistic(x, y, torch.tensor([1.0, 2.0, 1.0]), 0.1)
    copied = fit_logistic(x[[0, 1, 1, 2]], y[[0, 1, 1, 2]], torch.ones(4), 0.1)
    for one, other in zip(twice, copied, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_a_shift_of_the_features_changes_no_probability():
    x, y = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [1.0], [1.0]])
    plain, moved = (fit_logistic(x + shift, y, torch.ones(3), 0.1) for shift in (0.0, 100.0))
    torch.testing.assert_close(plain.logits(x.double()), moved.logits(x.double() + 100), atol=1e-4, rtol=0)


def test_a_label_that_is_never_true_is_improbable_and_finite():
    model = fit_logistic(torch.tensor([[0.0], [1.0]]), torch.zeros(2, 1), ONE, 0.1)
    logits = model.logits(torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    assert logits.isfinite().all()
    assert (logits < math.log(0.5 / 2.5) + 1e-6).all()  # no likelier than the smoothed rate


@pytest.mark.parametrize("penalty", [0.0, -1.0, math.nan])
def test_it_needs_a_penalty(penalty):
    with pytest.raises(ValueError, match="a penalty above 0"):
        fit_logistic(torch.ones(2, 1), torch.ones(2, 1), ONE, penalty)


def test_it_needs_examples_and_finite_features():
    with pytest.raises(ValueError, match="got 0 examples"):
        fit_logistic(torch.ones(0, 1), torch.ones(0, 1), torch.ones(0), 1.0)
    with pytest.raises(ValueError, match="finite features"):
        fit_logistic(torch.tensor([[math.inf]]), torch.ones(1, 1), torch.ones(1), 1.0)
