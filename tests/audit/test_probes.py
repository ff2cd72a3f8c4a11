"""Probes are what their names say, and wrong where they have to be."""

from collections import Counter

import pytest
import torch
from judges import draw_batches, hidden, true_reasons

from lvad.audit.probes import MIN_LONG_WORDS, NEUTRAL, PROBES, probe_texts
from lvad.audit.right_texts import RightTexts, merge_batches
from lvad.errors import DataError
from lvad.facts import claims, is_true
from lvad.taxonomy import BDD_OIA
from lvad.text import mirror_text, parse, render

NUM = 200


def build(batches, source, seed=0):
    generator = torch.Generator().manual_seed(seed)
    right = RightTexts(merge_batches(batches), source, generator)
    return right, probe_texts(right, generator)


def is_false_by_facts(text, facts):
    return any(not is_true(claim, facts) for claim in claims(text))


@pytest.mark.parametrize("seed", range(3))
def test_reasons_are_true_and_their_rivals_are_not(seed):
    right, probes = build(draw_batches(NUM, seed=seed), "reason", seed)
    scenes = right.scenes
    for i, text in enumerate(right.texts):
        true = true_reasons(scenes, i)
        assert (text in true) if true else text == ""
        if text:
            # The facts are an account of their own of what is true.
            assert not is_false_by_facts(text, scenes.facts[i])
            assert probes["all_true"][i] == ", ".join(true)
        for name in ("other_scene", "swapped_sides"):
            wrong = probes[name][i]
            assert wrong is None or (wrong in BDD_OIA.reason_texts and wrong not in true)
        assert (probes["flipped_image"][i] is None) == (probes["swapped_sides"][i] is None)
        if probes["flipped_image"][i] is not None:
            assert probes["flipped_image"][i] == text
            assert probes["swapped_sides"][i] == mirror_text(text) != text
    assert sum(text is not None for text in probes["other_scene"]) > 0.9 * NUM
    assert sum(text is not None for text in probes["swapped_sides"]) > 20


@pytest.mark.parametrize("seed", range(3))
def test_captions_of_other_scenes_claim_what_is_false_here(seed):
    right, probes = build(draw_batches(NUM, seed=seed), "caption", seed)
    assert right.texts == [captions[-1] for captions in right.scenes.captions]
    for i, facts in enumerate(right.scenes.facts):
        for name in ("other_scene", "swapped_sides"):
            assert probes[name][i] is None or is_false_by_facts(probes[name][i], facts)
        assert not is_false_by_facts(right.texts[i], facts)
    assert sum(text is not None for text in probes["other_scene"]) > 0.9 * NUM


def test_outputs_of_other_scenes_are_wrong_in_both_halves():
    right, probes = build(draw_batches(NUM), "output")
    for i, text in enumerate(right.texts):
        if not text:
            continue
        actions, reasons = right.scenes.actions[i], right.scenes.reasons[i]
        answer = parse(text)
        assert sum(answer.actions) == sum(answer.reasons) == 1
        assert actions[answer.actions.index(1)] == reasons[answer.reasons.index(1)] == 1
        if probes["other_scene"][i] is not None:
            other = parse(probes["other_scene"][i])
            assert actions[other.actions.index(1)] == reasons[other.reasons.index(1)] == 0
        if probes["swapped_sides"][i] is not None:
            other = parse(probes["swapped_sides"][i])
            assert not (actions[other.actions.index(1)] and reasons[other.reasons.index(1)])
        assert probes["all_true"][i] == render(actions.tolist(), reasons.tolist())


@pytest.mark.parametrize("source", ["reason", "action", "output", "caption"])
def test_the_same_texts_stand_on_both_sides_of_other_scene(source):
    """Otherwise a judge that likes frequent texts would seem to see the scene."""
    right, probes = build(draw_batches(NUM), source)
    used = [i for i, text in enumerate(probes["other_scene"]) if text is not None]
    assert Counter(right.texts[i] for i in used) == Counter(probes["other_scene"][i] for i in used)


def test_what_the_other_probes_say():
    right, probes = build(draw_batches(NUM), "reason")
    assert list(probes) == list(PROBES)
    for i, text in enumerate(right.texts):
        said = {name: texts[i] for name, texts in probes.items()}
        if not text:
            assert set(said.values()) == {None}
            continue
        assert (said["empty"], said["digits"], said["letters"], said["constant"]) == ("", "123", "abc", NEUTRAL)
        assert said["all_21"].split(", ") == list(BDD_OIA.reason_texts)
        assert said["repeated"] == f"{text} {text} {text}"
        assert said["overlong"].startswith(f"{text} ")
        assert MIN_LONG_WORDS <= len(said["overlong"].split()) < MIN_LONG_WORDS + 10
        assert said["shuffled"] != text
        assert Counter(said["shuffled"].split()) == Counter(text.split())
    assert claims(NEUTRAL) == []


def test_texts_that_cannot_be_spoilt_are_left_out():
    batches = hidden(draw_batches(10))
    texts = ["one", "one one", "", "two words", "word " * 80 + "word", *["a b c"] * 5]
    _, probes = build(batches, texts)
    assert probes["shuffled"][:3] == [None] * 3
    assert probes["shuffled"][3] == "words two"
    assert [text is None for text in probes["overlong"]] == [i in (2, 4) for i in range(10)]


def test_of_given_texts_without_facts_another_says_something_else():
    batches = hidden(draw_batches(10))
    texts = ["There is a green light.", "The traffic light is green.", *["There is a stop sign."] * 8]
    _, probes = build(batches, texts)
    assert probes["other_scene"][:2] == [texts[2]] * 2
    assert sum(text is not None for text in probes["other_scene"]) == 4
    for name in ("all_true", "flipped_image", "swapped_sides"):
        assert probes[name] == [None] * 10


def test_sources_that_the_scenes_lack_are_named():
    batches = draw_batches(10)
    with pytest.raises(DataError, match=r"scenes without captions.*'reason'"):
        build(hidden(batches), "caption")
    with pytest.raises(DataError, match="scenes without actions"):
        build(hidden(batches), "action")
    with pytest.raises(ValueError, match=r"one of .*'reason'.*got 'reasons'"):
        build(batches, "reasons")
    with pytest.raises(ValueError, match="got 3 for 10 scenes"):
        build(batches, ["a"] * 3)
    with pytest.raises(DataError, match="no scenes"):
        build([], "reason")
