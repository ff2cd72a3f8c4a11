"""Rewards of words: worked by hand, and against those who would cheat."""

from types import SimpleNamespace

import pytest
import torch

from lvad.data.layouts import read_source
from lvad.rewards import Consistency, Format, Length, Repetition
from lvad.taxonomy import BDD_OIA
from lvad.text import render
from lvad.types import Rollouts

EVERYTHING = f"Action: {', '.join(BDD_OIA.action_names)}. Reason: {', '.join(BDD_OIA.reason_texts)}."


def rollouts(texts):
    nothing = torch.zeros(len(texts), len(texts[0]), 0)
    return Rollouts(nothing, nothing.bool(), nothing, nothing, nothing.any(-1), texts)


def score(reward, *texts):
    scores = reward.score(SimpleNamespace(taxonomy=BDD_OIA), rollouts([list(texts)]))
    assert scores.total.shape == (1, len(texts))
    assert next(iter(scores.terms.values())) is scores.total
    return scores.total[0].tolist()


def test_repetition_by_hand():
    # a b c a b c: abc bca cab abc, one of four said before. Single words: three of four.
    found = score(Repetition(3), "a b c a b c", "a b c d", "A b c a B c", "")
    assert found == pytest.approx([-1 / 4, 0, -1 / 4, 0])
    assert score(Repetition(1), "stop stop stop stop") == pytest.approx([-3 / 4])


def test_too_short_for_an_ngram_is_measured_word_by_word():
    assert score(Repetition(3), "car car", "red car", "car") == pytest.approx([-0.5, 0, 0])


def test_endless_repetition_nears_minus_one_and_never_reaches_it():
    (found,) = score(Repetition(3), "the road is clear " * 2500)
    assert -1 < found < -0.999


def test_length_by_hand():
    reward = Length(min_words=4, max_words=6, slack_words=4)
    texts = [" ".join(["w"] * n) for n in (0, 2, 4, 6, 7, 10, 10_000)]
    assert score(reward, *texts) == pytest.approx([-1, -0.5, 0, 0, -0.25, -1, -1])


def test_format():
    texts = [render((0, 1, 0, 0), (0,) * 7 + (1,) + (0,) * 13), "Action: fly. Reason: none.", "", "日本", EVERYTHING]
    assert score(Format(), *texts) == [1, 0, 0, 0, 1]


def test_consistency_by_hand():
    texts = {
        "Action: stop. Reason: traffic light is not green.": 1.0,
        # Forbids the left that is not named.
        "Action: stop. Reason: no lane on the left.": 1.0,
        "Action: forward, left. Reason: road is clear, on the left-turn lane.": 1.0,
        # One of two agrees: the road is clear for a forward that is not named, the lane forbids a left that is.
        "Action: stop. Reason: obstacle: car, road is clear.": 0.5,
        "Action: forward, left. Reason: road is clear, no lane on the left.": 0.5,
        # Forward and stop exclude each other: of the three only the lane's agrees.
        "Action: forward, stop. Reason: road is clear, traffic sign, no lane on the left.": 1 / 3,
    }
    assert score(Consistency(), *texts) == pytest.approx(list(texts.values()))


def test_who_names_nothing_or_everything_or_talks_does_not_win():
    texts = [
        "", "Action: none. Reason: none.", "Action: stop.", "stop for the light", "Action: stop. Reason: aliens.",
    ]  # fmt: skip
    assert score(Consistency(), *texts) == [0] * len(texts)
    # With all actions named only the 6 reasons for left and right agree.
    assert score(Consistency(), EVERYTHING) == pytest.approx([6 / 21])


def test_the_real_labels_are_consistent(shared_data):
    scenes = read_source(shared_data / "bddoia_annotations").require().scenes
    answers = [render(s.actions, s.reasons) for s in scenes if s.reasons and any(s.reasons) and any(s.actions)]
    assert sum(score(Consistency(), *answers)) / len(answers) > 0.97


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Repetition(0), "ngram must be >= 1"),
        (lambda: Length(5, 4), "min_words must be"),
        (lambda: Length(slack_words=0), "slack_words must be"),
    ],
)
def test_values_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
