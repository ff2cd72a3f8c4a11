import dataclasses
import random

import pytest
from drawn import AT_JUNCTION, EMPTY, FREE, SOLID

from lvad.data.synthetic import bdd_oia_labels, complete_caption, draw_scene, draw_state, scene_captions, scene_facts
from lvad.data.synthetic.state import Side
from lvad.facts import ATTRIBUTES, claims, is_true, salient_facts
from lvad.taxonomy import BDD_OIA

FORWARD, STOP, LEFT, RIGHT = range(4)

# The real files' shares of positives, n of 11,299 (forward, stop, left, right, then the 21 reasons).
REAL_ACTIONS = (0.355, 0.629, 0.187, 0.214)
REAL_REASONS = (
    *(0.186, 0.151, 0.098, 0.321, 0.067, 0.010, 0.001, 0.323, 0.034, 0.005, 0.023),
    *(0.020, 0.004, 0.040, 0.026, 0.212, 0.131, 0.218, 0.275, 0.164, 0.123),
)


@pytest.fixture(scope="module")
def states():
    rng = random.Random(1)
    return [draw_state(rng) for _ in range(4000)]


def said(state):
    actions, reasons = bdd_oia_labels(state)
    return (
        [name for name, value in zip(BDD_OIA.action_names, actions, strict=True) if value],
        [i for i, value in enumerate(reasons) if value],
    )


@pytest.mark.parametrize(
    ("base", "changes", "actions", "reasons"),
    [
        (EMPTY, {}, ["forward"], [1, 16, 19]),
        (EMPTY, {"left": FREE, "right": SOLID}, ["forward", "left"], [1, 20]),
        (EMPTY, {"left": Side("car", "solid", "red"), "right": FREE}, ["forward", "right"], [1, 15, 17]),
        (EMPTY, {"lead": "far"}, ["forward"], [0, 16, 19]),
        (EMPTY, {"lead": "near", "braking": True, "left": FREE}, ["stop", "left"], [3, 19]),
        (EMPTY, {"light": "red", "left": FREE, "right": FREE}, ["stop"], [7]),
        (EMPTY, {"obstacle": "cones", "right": FREE}, ["stop", "right"], [6, 16]),
        (EMPTY, {"rider": True, "right": FREE}, ["stop"], [5, 16]),
        (AT_JUNCTION, {"light": "yellow"}, ["stop"], [7]),
        (AT_JUNCTION, {"light": "green"}, ["forward"], [1, 2]),
        (AT_JUNCTION, {"light": "green", "light_before": "red", "lead": "near"}, ["forward"], [0, 2]),
        (AT_JUNCTION, {"light": "left arrow"}, ["left"], [11]),
        (AT_JUNCTION, {"light": "right arrow", "turn_lane": "right"}, ["right"], [13, 14]),
        (AT_JUNCTION, {"turn_lane": "left"}, ["left"], [10]),
        (AT_JUNCTION, {"turn_lane": "left", "light": "red"}, ["stop"], [7]),
        (AT_JUNCTION, {"lead": "near", "turn": "right"}, ["right"], [12]),
        (AT_JUNCTION, {"lead": "near", "turn": "left", "light": "green"}, ["forward", "left"], [2, 9]),
        (AT_JUNCTION, {"person": "crossing"}, ["stop"], [4]),
        (AT_JUNCTION, {"person": "sidewalk"}, ["forward"], [1]),
        (AT_JUNCTION, {"sign": "stop"}, ["stop"], [8]),
        (AT_JUNCTION, {"sign": "speed limit"}, ["forward"], [1]),
    ],
)
def test_labels_follow_the_rules(base, changes, actions, reasons):
    assert said(dataclasses.replace(base, **changes)) == (actions, reasons)


def test_marginals_follow_the_real_files(states):
    rows = [bdd_oia_labels(state) for state in states]
    drawn = [sum(column) / len(rows) for column in zip(*((*a, *r) for a, r in rows), strict=True)]
    names = [*BDD_OIA.action_names, *(reason.key for reason in BDD_OIA.reasons)]
    for name, share, real in zip(names, drawn, (*REAL_ACTIONS, *REAL_REASONS), strict=True):
        print(f"{name:18} drawn {share:.3f} real {real:.3f}")
        if real > 0.09:
            assert share == pytest.approx(real, rel=0.25), name
        elif real >= 0.02:
            assert share == pytest.approx(real, rel=0.5), name
        else:
            assert 0.005 < share < 0.03, name


def test_labels_fit_together(states):
    for state in states:
        actions, reasons = bdd_oia_labels(state)
        assert any(actions)
        assert any(reasons)
        assert not (actions[FORWARD] and actions[STOP])
        assert actions[STOP] == any(reasons[3:9])
        assert actions[FORWARD] == any(reasons[:3])
        assert not (actions[LEFT] and any(reasons[15:18]))
        assert not (actions[RIGHT] and any(reasons[18:]))


def test_every_action_occurs_alone_with_one_reason(states):
    rows = [bdd_oia_labels(state) for state in states]
    alone = {actions for actions, reasons in rows if sum(actions) == sum(reasons) == 1}
    assert len(alone) == len(BDD_OIA.action_names)


def test_facts_are_whole_and_within_the_language(states):
    for state in states:
        known = scene_facts(state)
        assert known.keys() == ATTRIBUTES.keys()
        assert all(value in ATTRIBUTES[attribute] for attribute, value in known.items())


def test_true_reasons_claim_true_facts(states):
    for state in states:
        given = [text for text, value in zip(BDD_OIA.reason_texts, bdd_oia_labels(state)[1], strict=True) if value]
        assert all(is_true(claim, scene_facts(state)) for text in given for claim in claims(text))


def test_captions_are_true_and_complete(states):
    rng, words = random.Random(2), set()
    for state in states[:2000]:
        known, texts = scene_facts(state), scene_captions(state, rng)
        for text in texts:
            said_here = claims(text)
            assert said_here, text
            assert all(is_true(claim, known) for claim in said_here), text
            words.update(text.replace(".", "").replace(",", "").split())
        assert all(8 <= len(text.split()) <= 22 for text in texts[:-1])
        assert salient_facts(known).keys() <= {attribute for attribute, _ in claims(texts[-1])}
    assert len(words) < 150


def test_complete_caption_by_example():
    state = dataclasses.replace(EMPTY, time="night", light="red", light_before="red", left=Side("car", "solid", "blue"))
    text = complete_caption(state, random.Random(0))
    assert [claim for claim in claims(text) if claim[0] in salient_facts(scene_facts(state))] == [
        ("light", "red"),
        ("road", "clear"),
        ("left_lane", "car"),
        ("left_line", "solid"),
        ("right_lane", "absent"),
    ]


def test_scene_of_an_index_is_fixed():
    assert draw_scene(0, 5) == draw_scene(0, 5)
    assert draw_scene(0, 5).state != draw_scene(1, 5).state
    assert draw_scene(0, 4).id[:8] == draw_scene(0, 7).id[:8] != draw_scene(0, 8).id[:8]
    assert len({draw_scene(0, index).id for index in range(500)}) == 500
