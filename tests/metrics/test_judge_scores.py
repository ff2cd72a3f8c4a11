"""A judge's scores beside those of right and wrong texts."""

import pytest
import torch

from lvad.metrics.judge_scores import JudgedScene, JudgeScore


def score(*scenes):
    metric = JudgeScore()
    metric.update([f"scene-{i}" for i in range(len(scenes))], [JudgedScene(*scene) for scene in scenes])
    return metric.compute()


def test_means_and_matches_over_batches():
    """Right texts score 2, wrong ones 0: the fitted boundary is 1 by symmetry; 1 of 4 said texts lies above."""
    metric = JudgeScore()
    metric.update(["a", "b"], [JudgedScene(1.5, 2.0, 0.0), JudgedScene(0.5, 2.0, 0.0)])
    metric.update(["c", "d"], [JudgedScene(0.0, 2.0, 0.0), JudgedScene(0.9, None, None)])
    metric.update(["a"], [JudgedScene(9.0, 9.0, 9.0)])  # a scene that a loader repeats counts once
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found == pytest.approx(
        {"score": 0.725, "score_right": 2.0, "score_wrong": 0.0, "match": 0.25, "match_right": 1.0}
    )


def test_a_judge_that_likes_everything_matches_about_half_of_what_is_right():
    scores = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    found = score(*zip(*scores.view(2, 1000)[[0, 0, 1]].tolist(), strict=True))
    assert 0.0 <= found["match_right"] <= 1.0
    assert abs(found["score_right"] - found["score_wrong"]) < 0.1


def test_without_wrong_texts_there_is_no_match():
    assert set(score((0.3, None, None))) == {"score"}


def test_errors():
    with pytest.raises(ValueError, match="call update first"):
        JudgeScore().compute()
