"""Token arithmetic."""

import math

import pytest
import torch

from lvad.ops import entropy, gather_logps, masked_mean, sequence_sum


def test_gather_takes_each_tokens_entry():
    logps = torch.tensor([[[-1.0, -2.0], [-3.0, -4.0]]])
    assert gather_logps(logps, torch.tensor([[1, 0]])).tolist() == [[-2.0, -3.0]]


def test_entropy_of_a_coin_and_of_a_certainty():
    logps = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log()
    assert entropy(logps).tolist() == pytest.approx([math.log(2), 0.0])


def test_masked_mean_is_over_the_kept_entries():
    # (1 + 5) / 2, the 100 is masked out.
    keep = torch.tensor([True, False, True])
    assert masked_mean(torch.tensor([1.0, 100.0, 5.0]), keep).item() == 3.0
    with pytest.raises(ValueError, match="empty"):
        masked_mean(torch.tensor([1.0]), torch.tensor([False]))


def test_masked_values_that_are_not_numbers_do_not_leak():
    values = torch.tensor([[[1.0, math.nan]]])
    assert sequence_sum(values, torch.tensor([[[True, False]]])).tolist() == [[1.0]]
