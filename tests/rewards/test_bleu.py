"""BLEU: sacrebleu's own numbers, and the reward made of them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from sacrebleu import sentence_bleu as sacre_sentence_bleu
from test_rules import rollouts
from torch import nn

from lvad.rewards import BLEU, Mix
from lvad.rewards.bleu import sentence_bleu
from lvad.text import render
from lvad.types import UNLABELLED, Batch, Reward

STOP, RED = (0, 1, 0, 0), tuple(int(i == 7) for i in range(21))
RIGHT = "Action: stop. Reason: traffic light is not green."
WORDS = st.lists(st.sampled_from(["the", "light", "is", "red", "green", "."]), max_size=9).map(" ".join)


def batch(*labels, captions=None):
    return Batch(
        [f"scene-{i}" for i in range(len(labels))],
        [torch.zeros(1, 3, 2, 2, dtype=torch.uint8)] * len(labels),
        torch.tensor([actions for actions, _ in labels]),
        torch.tensor([reasons for _, reasons in labels]),
        captions or [()] * len(labels),
        [None] * len(labels),
        [f"scene-{i}" for i in range(len(labels))],
    )


ONE = batch((STOP, RED))


@settings(database=None, derandomize=True, max_examples=60)
@given(text=WORDS, references=st.lists(WORDS.filter(str.strip), min_size=1, max_size=3))
def test_the_number_is_sacrebleus(text, references):
    theirs = sacre_sentence_bleu(text, references).score / 100  # effective order and smoothing "exp" by default
    assert sentence_bleu(text, references) == pytest.approx(theirs, abs=1e-12)
    assert 0 <= sentence_bleu(text, references) <= 1


def test_by_hand():
    # Tokens "Action : left ." against "Action : stop .": 3/4 and 1/3; no 3-gram of 2 and no 4-gram of 1 is there, which
    # exponential smoothing counts as 1/2 and 1/4: 1 / (2 * 2) and 1 / (4 * 1). No brevity penalty.
    expected = (3 / 4 * 1 / 3 * 1 / 4 * 1 / 4) ** (1 / 4)
    assert sentence_bleu("Action: left.", ["Action: stop."]) == pytest.approx(expected)
    # Three of seven tokens: every n-gram up to the effective order 3 is there, the brevity penalty is exp(1 - 7 / 3).
    assert sentence_bleu("the light is", ["the light is red here now ."]) == pytest.approx(math.exp(-4 / 3))


def test_the_reference_has_one_and_silence_nothing():
    for text in (RIGHT, "stop", "a b c", render((0, 0, 0, 0), (0,) * 21)):
        assert sentence_bleu(text, [text]) == 1.0
    assert sentence_bleu("", [RIGHT]) == 0.0
    with pytest.raises(ValueError, match="needs a reference"):
        sentence_bleu(RIGHT, [])


def test_right_texts_are_the_true_answer_with_or_without_reasons():
    said = rollouts([[RIGHT, "Action: stop.", ""]])
    with_reasons, alone = BLEU("answer").score(ONE, said).total, BLEU("action").score(ONE, said).total
    assert with_reasons.shape == (1, 3)
    assert with_reasons[0, 0] == 1
    assert 0 < with_reasons[0, 1] < 0.5
    assert alone[0, 1] == 1
    assert (with_reasons[0, 2], alone[0, 2]) == (0, 0)


def test_each_scene_has_its_own_right_text():
    other = batch((STOP, RED), ((1, 0, 0, 0), tuple(int(i == 1) for i in range(21))))
    texts = [RIGHT, "Action: forward. Reason: road is clear."]
    scores = BLEU().score(other, rollouts([texts, texts])).total
    assert scores.diag().tolist() == [1, 1]
    assert (scores[0, 1] < 1, scores[1, 0] < 1) == (True, True)


def test_of_several_captions_the_nearest_counts_and_no_mosaic_of_them():
    captions = ("the light is red", "a truck stands on the right")
    scene = batch((STOP, RED), captions=[captions])
    said = ["a truck stands on the right", "the light is red", "the light is on the right"]
    scores = BLEU("caption").score(scene, rollouts([said])).total[0]
    assert scores[:2].tolist() == [1, 1]
    assert scores[2].item() == pytest.approx(max(sentence_bleu(said[2], [caption]) for caption in captions))
    assert scores[2].item() < sentence_bleu(said[2], captions) - 0.1  # the pool lets it be pieced together


def test_the_threshold_lets_its_own_value_pass():
    # "the light is" of five tokens: exp(1 - 5 / 3); of itself 1.
    scene = batch((STOP, RED), captions=[("the light is red now",)])
    said = rollouts([["the light is", "the light is red now", ""]])
    plain = BLEU("caption").score(scene, said)
    assert plain.total[0].tolist() == pytest.approx([math.exp(-2 / 3), 1, 0])
    for threshold, passed in (
        (0.5, [1, 1, 0]),
        (plain.total[0, 0].item(), [1, 1, 0]),
        (0.52, [0, 1, 0]),
        (1.0, [0, 1, 0]),
    ):
        scores = BLEU("caption", threshold).score(scene, said)
        assert scores.total[0].tolist() == passed
        assert torch.equal(scores.terms["bleu"], plain.total)


def test_the_papers_threshold_lets_the_wrong_light_pass():
    """A known weakness, said in the docstring: one word of eight makes the difference."""
    said = rollouts([["Action: forward. Reason: traffic light is green.", "Action: forward. Reason: road is clear."]])
    scores = BLEU("answer", 0.5).score(ONE, said)
    assert scores.total[0].tolist() == [1, 0]
    assert scores.terms["bleu"][0, 0].item() == pytest.approx(0.52, abs=0.005)


def test_scenes_without_a_right_text_are_named():
    nothing = batch((STOP, RED), ((UNLABELLED,) * 4, (UNLABELLED,) * 21))
    said = rollouts([[RIGHT], [RIGHT]])
    for target in ("answer", "action"):
        with pytest.raises(ValueError, match=r"'scene-1' has no labels for BLEU .*labelled scenes"):
            BLEU(target).score(nothing, said)
    with pytest.raises(ValueError, match=r"'scene-0' has no caption for BLEU .*scenes with captions"):
        BLEU("caption").score(nothing, said)
    # Without reasons in the right text none are asked for.
    only_actions = batch((STOP, (UNLABELLED,) * 21))
    assert BLEU("action").score(only_actions, rollouts([["Action: stop."]])).total.item() == 1
    with pytest.raises(ValueError, match="no labels"):
        BLEU("answer").score(only_actions, rollouts([[RIGHT]]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BLEU(target="reasons"), "target must be action, answer or caption, got 'reasons'"),  # type: ignore[arg-type]
        (lambda: BLEU(threshold=0.0), r"threshold must be in \(0, 1\].* got 0.0"),
        (lambda: BLEU(threshold=50.0), r"threshold must be in \(0, 1\].* got 50.0"),
        (lambda: BLEU(threshold=float("nan")), "threshold must be"),
    ],
)
def test_values_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_yaml_builds_it_alone_and_in_a_mix():
    parser = ArgumentParser()
    parser.add_argument("--reward", type=Reward)
    parsed = parser.parse_args(["--reward=lvad.rewards.BLEU", "--reward.target=action", "--reward.threshold=0.5"])
    reward = parser.instantiate_classes(parsed).reward
    assert isinstance(reward, nn.Module)
    assert not list(reward.parameters())
    mixed = Mix({"bleu": reward}, {"bleu": 2.0}).score(ONE, rollouts([["Action: stop.", "Action: left."]]))
    assert mixed.total.tolist() == [[2, 0]]
