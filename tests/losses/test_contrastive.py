"""Losses of the reward model."""

import math

import pytest
import torch
import torch.nn.functional as F

from lvad.losses.contrastive import info_nce, matching_bce
from lvad.losses.supervised import token_cross_entropy


def test_info_nce_at_chance_is_log_b():
    same = F.normalize(torch.ones(5, 3), dim=1)
    assert info_nce(same, same, torch.tensor(7.0)).item() == pytest.approx(math.log(5))


def test_info_nce_by_hand():
    # Orthogonal pairs, scale 1: each row is (1, 0), so -log(e / (e + 1)) in both directions.
    eye = torch.eye(2)
    assert info_nce(eye, eye, torch.tensor(1.0)).item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_matching_bce_by_hand():
    # Scale 2: a right pair of cosine 0.5 costs log(1 + e^-1), a wrong pair of cosine 0 costs log 2.
    loss = matching_bce(torch.tensor([0.5, 0.0]), torch.tensor([True, False]), torch.tensor(2.0))
    assert loss.item() == pytest.approx((math.log(1 + math.exp(-1)) + math.log(2)) / 2)


def test_token_cross_entropy_is_a_mean_over_target_tokens():
    # (1 + 2 + 3) / 3; the padding's -50 does not count.
    logps = torch.tensor([[-1.0, -2.0], [-3.0, -50.0]])
    assert token_cross_entropy(logps, torch.tensor([[True, True], [True, False]])).item() == 2.0
    with pytest.raises(ValueError, match="no target token"):
        token_cross_entropy(logps, torch.zeros(2, 2, dtype=torch.bool))
