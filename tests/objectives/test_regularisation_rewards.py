"""Rewards that are not finite never go on, and outliers go on limited."""

import math

import pytest
import torch

from lvad.errors import BrokenReward
from lvad.objectives.regularisation import Regularisation, check_finite
from lvad.types import Rollouts, Scores


def make_scores(value, where="clip"):
    clip, bleu = torch.zeros(2, 3), torch.ones(2, 3)
    (clip if where == "clip" else bleu)[1, 2] = value
    return Scores(clip + bleu, {"clip": clip, "bleu": bleu})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_error_names_scene_completion_and_term(value):
    with pytest.raises(BrokenReward, match=rf"scene 'b', completion 2: bleu = {value}; mend the reward"):
        check_finite(make_scores(value, "bleu"), ["a", "b"], drop=False)


def test_only_a_few_are_named():
    broken = Scores(torch.full((2, 3), math.nan), {})
    with pytest.raises(BrokenReward, match="completion 2: the total = nan and 3 more"):
        check_finite(broken, ["a", "b"], drop=False)


def test_dropping_takes_the_whole_scene_out():
    scores, is_kept = check_finite(make_scores(math.nan), ["a", "b"], drop=True)
    assert is_kept.tolist() == [True, False]
    assert scores.total.tolist() == [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    assert scores.terms["clip"].isfinite().all()


def test_finite_scores_pass_as_they_are():
    given = make_scores(1e30)
    scores, is_kept = check_finite(given, ["a", "b"], drop=False)
    assert scores is given
    assert is_kept.all()


def test_a_watched_term_may_break_without_harm_to_the_total():
    """A part of weight 0 is in no total."""
    given = Scores(torch.zeros(1, 2), {"watched": torch.tensor([[math.nan, 0.0]])})
    assert check_finite(given, ["a"], drop=False)[1].all()


def test_rewards_are_limited_before_the_entropy_bonus():
    mask = torch.tensor([[[True, True, False], [True, True, True]]])
    logps = torch.tensor([[[-1.0, -2.0, 0.0], [-0.5, -0.5, -1.0]]])  # -log pi of the completions: 3 and 2
    tokens = torch.zeros(1, 2, 3, dtype=torch.long)
    rollouts = Rollouts(tokens, mask, logps, -logps, ~mask.any(-1), [["a", "b"]])
    options = Regularisation(entropy_bonus=0.5, reward_limit=1.0)
    assert options.adjusted(torch.tensor([[4.0, -0.25]]), rollouts).tolist() == [[1 + 1.5, -0.25 + 1.0]]
    rewards = torch.tensor([[4.0, -0.25]])
    assert torch.equal(Regularisation().adjusted(rewards, rollouts), rewards)
