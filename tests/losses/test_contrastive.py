"""Losses of the reward model."""

import math

import pytest
import torch
import torch.nn.functional as F

from lvad.losses.contrastive import info_nce, matching_bce, ranking_loss


def test_info_nce_at_chance_is_log_b():
    same = F.normalize(torch.ones(5, 3), dim=1)
    assert info_nce(same, same, torch.tensor(7.0)).item() == pytest.approx(math.log(5))


def test_info_nce_by_hand():
    # Orthogonal pairs, scale 1: each row is (1, 0), so -log(e / (e + 1)) in both directions.
    eye = torch.eye(2)
    assert info_nce(eye, eye, torch.tensor(1.0)).item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_matching_bce_by_hand():
    # Scale 2. Scene 0: true texts of cosine 0.5 and 0, a false one of 0, one that is neither. Right: the mean of
    # log(1 + e^-1) and log 2; wrong: log 2. Scene 1 has no true text and counts for nothing.
    cosines = torch.tensor([[0.5, 0.0, 0.0, 9.0], [0.3, 0.3, 0.3, 0.3]])
    is_true = torch.tensor([[True, True, False, False], [False] * 4])
    is_false = torch.tensor([[False, False, True, False], [True] * 4])
    right, wrong = (math.log(1 + math.exp(-1)) + math.log(2)) / 2, math.log(2)
    for num_negatives in (1, 3):
        loss = matching_bce(cosines, is_true, is_false, torch.tensor(2.0), num_negatives)
        assert loss.item() == pytest.approx((right + num_negatives * wrong) / (1 + num_negatives))
    assert matching_bce(cosines[1:], is_true[1:], is_false[1:], torch.tensor(2.0)).item() == 0


def test_matching_bce_is_the_mean_over_the_papers_draws():
    generator = torch.Generator().manual_seed(0)
    cosines, is_true = torch.rand(4, 6, generator=generator) - 0.5, torch.rand(4, 6, generator=generator) < 0.5
    scale, drawn = torch.tensor(3.0), []
    for row, truth in zip(cosines, is_true, strict=True):
        pairs = [
            (F.softplus(-scale * row[t]) + F.softplus(scale * row[f])) / 2
            for t in truth.nonzero().flatten()
            for f in (~truth).nonzero().flatten()
        ]
        drawn.append(torch.stack(pairs).mean())
    torch.testing.assert_close(matching_bce(cosines, is_true, ~is_true, scale), torch.stack(drawn).mean())


def test_what_is_not_wrong_takes_no_part_in_info_nce():
    # Orthogonal pairs at scale 1, text 1 not wrong for image 0: row 0 costs nothing, row 1 log(1 + 1/e); the
    # columns the other way round.
    is_wrong = torch.tensor([[False, False], [True, False]])
    expected = torch.log1p(torch.exp(torch.tensor(-1.0))) / 2
    torch.testing.assert_close(info_nce(torch.eye(2), torch.eye(2), torch.tensor(1.0), is_wrong), expected)


def test_ranking_loss_by_hand():
    loss = ranking_loss(torch.tensor([0.5, 0.2]), torch.tensor([0.0, 0.2]), torch.tensor(2.0))
    torch.testing.assert_close(loss, (torch.log1p(torch.exp(torch.tensor(-1.0))) + torch.tensor(2.0).log()) / 2)
    assert ranking_loss(torch.empty(0), torch.empty(0), torch.tensor(2.0)).item() == 0
