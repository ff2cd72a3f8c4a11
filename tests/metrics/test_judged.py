"""A judge's scores beside those of right and wrong texts."""

import pytest
import torch

from lvad.metrics.judged import JudgeScore


def test_means_and_matches_over_batches():
    """Right texts score 2, wrong ones 0: the fitted boundary is 1 by symmetry; 1 of 4 said texts lies above."""
    metric = JudgeScore()
    metric.update(torch.tensor([1.5, 0.5]), torch.tensor([2.0, 2.0]), torch.tensor([0.0, 0.0]))
    metric.update(torch.tensor([0.0, 0.9]), torch.tensor([2.0]), torch.tensor([0.0]))
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found == pytest.approx(
        {"score": 0.725, "score_right": 2.0, "score_wrong": 0.0, "match": 0.25, "match_right": 1.0}
    )


def test_a_judge_that_likes_everything_matches_about_half_of_what_is_right():
    scores = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    metric = JudgeScore()
    metric.update(scores[:1000], scores[:1000], scores[1000:])
    found = metric.compute()
    assert 0.0 <= found["match_right"] <= 1.0
    assert abs(found["score_right"] - found["score_wrong"]) < 0.1


def test_without_wrong_texts_there_is_no_match():
    metric = JudgeScore()
    metric.update(torch.tensor([0.3]), torch.empty(0), torch.empty(0))
    assert set(metric.compute()) == {"score"}


def test_errors():
    with pytest.raises(ValueError, match="call update first"):
        JudgeScore().compute()
    with pytest.raises(ValueError, match="must pair"):
        JudgeScore().update(torch.zeros(2), torch.zeros(2), torch.zeros(1))
