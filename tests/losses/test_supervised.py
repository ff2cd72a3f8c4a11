"""Cross-entropy on answers, plain and with weighted rows."""

import math

import pytest
import torch

from lvad.losses.supervised import token_cross_entropy

LOGPS = torch.tensor([[-1.0, -2.0], [-3.0, -100.0]])
TARGETS = torch.tensor([[True, True], [True, False]])


def test_the_mean_is_over_target_tokens():
    # (1 + 2 + 3) / 3; the -100 is padding.
    assert token_cross_entropy(LOGPS, TARGETS).item() == 2.0
    with pytest.raises(ValueError, match="no target token"):
        token_cross_entropy(LOGPS, torch.zeros(2, 2, dtype=torch.bool))


def test_a_weighted_mean_by_hand():
    # (1 (1 + 2) + 3 * 3) / 3 tokens.
    assert token_cross_entropy(LOGPS, TARGETS, torch.tensor([1.0, 3.0])).item() == pytest.approx(4.0)
    # A row alone keeps its weight: 3 * 3 / 1 token.
    assert token_cross_entropy(LOGPS[1:], TARGETS[1:], torch.tensor([3.0])).item() == pytest.approx(9.0)


def test_four_batches_of_one_row_weigh_like_one_of_four():
    logps = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)) - 3
    targets, weights = torch.ones(4, 3, dtype=torch.bool), torch.tensor([0.25, 0.5, 0.75, 2.5])
    rows = [token_cross_entropy(logps[[i]], targets[[i]], weights[[i]]) for i in range(4)]
    torch.testing.assert_close(torch.stack(rows).mean(), token_cross_entropy(logps, targets, weights))


def test_weights_of_one_leave_the_plain_mean_to_the_last_bit():
    logps = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) - 3
    targets = torch.arange(7)[None] < torch.tensor([7, 3, 1, 5, 2])[:, None]
    for dtype in (torch.float32, torch.float64):
        plain = token_cross_entropy(logps.to(dtype), targets)
        assert torch.equal(plain, token_cross_entropy(logps.to(dtype), targets, torch.ones(5)))


def test_the_gradient_is_the_rows_weight_over_the_tokens():
    logps = LOGPS.clone().requires_grad_()
    token_cross_entropy(logps, TARGETS, torch.tensor([1.0, 3.0])).backward()
    assert logps.grad is not None
    torch.testing.assert_close(logps.grad, torch.tensor([[-1 / 3, -1 / 3], [-1.0, 0.0]]))


def test_padding_does_not_leak():
    logps = torch.tensor([[-1.0, -math.inf], [-3.0, math.nan]], requires_grad=True)
    targets = torch.tensor([[True, False], [True, False]])
    for weights, expected in ((None, 2.0), (torch.tensor([1.0, 3.0]), 5.0)):
        logps.grad = None
        loss = token_cross_entropy(logps, targets, weights)
        loss.backward()
        assert loss.item() == expected
        assert logps.grad is not None
        assert logps.grad.isfinite().all()


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_weights_out_of_range(wrong):
    with pytest.raises(ValueError, match="weights must be positive"):
        token_cross_entropy(LOGPS, TARGETS, torch.tensor([1.0, wrong]))


def test_over_the_mean_length_batches_of_unequal_rows_add_up_too():
    # Rows of 2 and 1 tokens, 1.5 on average: (1 + 2 + 3) / (2 * 1.5), and the mean of (1 + 2) / 1.5 and 3 / 1.5.
    assert token_cross_entropy(LOGPS, TARGETS, mean_tokens=1.5).item() == 2.0
    rows = [token_cross_entropy(LOGPS[[i]], TARGETS[[i]], mean_tokens=1.5).item() for i in range(2)]
    assert rows == [2.0, 2.0]
    # Counted in the batch, the longer row would have lost half of its weight: 1.5 and 3.
    assert [token_cross_entropy(LOGPS[[i]], TARGETS[[i]]).item() for i in range(2)] == [1.5, 3.0]
