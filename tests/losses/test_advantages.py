"""Leave-one-out advantages."""

import pytest
import torch

from lvad.losses.advantages import leave_one_out


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
