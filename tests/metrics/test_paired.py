"""Paired differences over seeds and recordings."""

import pytest
import torch
from sklearn.metrics import f1_score

from lvad.metrics.paired import SeedAnswers, paired_difference, weighted_macro_f1


def said(predicted, true, recordings=None):
    rows = [torch.tensor(part, dtype=torch.bool) for part in (predicted, true)]
    return SeedAnswers(*rows, recordings or [str(i) for i in range(len(predicted))])


def test_macro_f1_by_hand():
    # Class 0: predicted by scenes 0 and 1, true of 0 and 2: F1 = 2 / 4. Class 1: predicted by 2, true of 2: F1 = 1.
    one = said([[1, 0], [1, 0], [0, 1]], [[1, 0], [0, 0], [1, 1]])
    # Scene 0 three times: class 0 has 2 * 3 / (4 + 4). Scene 2 alone: class 0 is missed, 0.
    weights = torch.tensor([[1, 1, 1], [3, 1, 1], [0, 0, 1], [0, 1, 0]], dtype=torch.float64)
    found = weighted_macro_f1(one.predicted, one.true, weights)
    torch.testing.assert_close(found, torch.tensor([0.75, 0.875, 0.5, 0.0], dtype=torch.float64))


def test_macro_f1_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    predicted, true = (torch.rand(40, 5, generator=generator) < 0.4 for _ in range(2))
    weights = torch.randint(0, 4, (3, 40), generator=generator).double()
    found = weighted_macro_f1(predicted, true, weights)
    for value, row in zip(found.tolist(), weights, strict=True):
        wanted = f1_score(true, predicted, average="macro", sample_weight=row, zero_division=0)
        assert value == pytest.approx(wanted, abs=1e-12)


RIGHT = said([[1], [1], [1], [1]], [[1]] * 4)
WRONG = said([[0], [0], [0], [0]], [[1]] * 4)


def test_a_certain_difference_has_no_width():
    found = paired_difference([RIGHT, RIGHT], [WRONG, WRONG])
    assert found == (1.0, 1.0, 1.0)
    assert paired_difference([RIGHT], [RIGHT]) == (0.0, 0.0, 0.0)


def test_the_interval_widens_with_what_seeds_disagree_about():
    # Seed 0 says +1, seed 1 says 0. Draws of two seeds have means 0, 0.5 and 1 with 1/4, 1/2 and 1/4.
    found = paired_difference([RIGHT, RIGHT], [WRONG, RIGHT])
    assert found == (0.5, 0.0, 1.0)


def test_scenes_of_a_recording_are_drawn_together():
    # One class, 8 scenes, all true; the first half is found. F1 = 2 k / (k + 8) for k of 8 drawn scenes found.
    half = [[1]] * 4 + [[0]] * 4
    nothing = said([[0]] * 8, [[1]] * 8, ["a"] * 4 + ["b"] * 4)
    together = paired_difference([said(half, [[1]] * 8, ["a"] * 4 + ["b"] * 4)], [nothing])
    apart = paired_difference([said(half, [[1]] * 8)], [nothing])
    assert together.mean == apart.mean == pytest.approx(2 / 3)
    # Of two recordings draws are a a (1.0), a b (2/3) or b b (0), each in at least a quarter.
    assert (together.low, together.high) == pytest.approx((0.0, 1.0))
    # Of 8 scenes k is binomial; P(k <= 0) = 0.004 and P(k <= 1) = 0.035: the lower end lies at 1 or 2 found.
    assert 2 / 9 <= apart.low <= 4 / 10
    assert apart.high < 1.0


def test_seeds_with_other_test_scenes_share_recordings():
    one, two = said([[1], [0]], [[1], [1]], ["a", "b"]), said([[0], [1]], [[1], [1]], ["b", "c"])
    zero = [SeedAnswers(torch.zeros_like(part.predicted), part.true, part.recordings) for part in (one, two)]
    assert paired_difference([one, two], zero).mean == pytest.approx(2 / 3)


def test_what_is_not_paired_is_refused():
    with pytest.raises(ValueError, match="same seeds of both, got 2 and 1"):
        paired_difference([RIGHT, RIGHT], [RIGHT])
    with pytest.raises(ValueError, match="same seeds of both, got 0 and 0"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="truths differ"):
        paired_difference([RIGHT], [said([[1]] * 4, [[0]] * 4)])
