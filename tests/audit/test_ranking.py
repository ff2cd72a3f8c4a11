"""Ranks worked by hand, and a probability that is one."""

import pytest
import torch

from lvad.audit.ranking import rank_candidates
from lvad.data.pairs import Candidates


def test_ranks_count_false_texts_above_and_half_of_those_level():
    is_true = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]).bool()
    found = Candidates(("a", "b", "c", "d"), is_true, ~is_true)
    scores = torch.tensor([[2.0, 3.0, 2.0, 9.0], [1.0, 5.0, 2.0, 0.0], [7.0, 7.0, 7.0, 7.0]]).double()
    right = torch.tensor([2.0, 5.0, torch.nan]).double()
    rank = rank_candidates(right, scores, found).rank
    # Scene 0: b is above, c level, d true and no rival: 1 + 1 + 1/2. Scene 1: 1. Scene 2 has no right text.
    assert rank.mean == pytest.approx((2.5 + 1) / 2)
    assert rank.median == pytest.approx((2.5 + 1) / 2)
    # Two false texts in scene 0 and three in scene 1: half of them are above a blind choice.
    assert rank.chance == pytest.approx((1 + 1 + 1 + 1.5) / 2)


def test_calibration_is_fitted_on_every_other_scene_and_tried_on_the_rest():
    """Scenes of even index rank right, those of odd index wrong: the fit must not have seen the odd ones."""
    is_true = torch.tensor([[True, False]]).repeat(40, 1)
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(20, 1).double()
    found = rank_candidates(scores[:, 0], scores, Candidates(("a", "b"), is_true, ~is_true)).calibration
    assert found is not None
    assert found.slope > 3
    # Platt's targets for 20 and 20 are 21/22 and 1/22, and what is claimed is the contrary of what happens.
    assert found.claimed == pytest.approx([1 / 22, 21 / 22], abs=1e-4)
    assert found.observed == [1.0, 0.0]
    assert found.count == [20, 20]
    assert found.ece == pytest.approx(21 / 22, abs=1e-4)


def test_without_both_kinds_in_either_half_nothing_is_calibrated():
    is_true = torch.tensor([[True, True], [True, False]]).repeat(5, 1)
    scores = torch.rand(10, 2).double()
    assert rank_candidates(scores[:, 0], scores, Candidates(("a", "b"), is_true, ~is_true)).calibration is None
