"""Answers: what is written can be read back, and what is wrong is named."""

import json

import pytest

from lvad.taxonomy import BDD_OIA
from lvad.text import Flaw, mirror_text, parse, render

STOP = (0, 1, 0, 0)


def one_hot(index, size=BDD_OIA.num_reasons):
    return tuple(int(i == index) for i in range(size))


def flaws(text):
    return [problem.flaw for problem in parse(text).problems]


def test_render_is_the_format_of_the_paper():
    assert (
        render(STOP, one_hot(BDD_OIA.reason_index["s_traffic_light"]))
        == "Action: stop. Reason: traffic light is not green."
    )
    assert render((1, 0, 1, 0)) == "Action: forward, left."
    assert render((0, 0, 0, 0), one_hot(-1)) == "Action: none. Reason: none."


def test_render_refuses_wrong_lengths():
    with pytest.raises(ValueError, match="actions must have 4 entries, got 5"):
        render((0, 1, 0, 0, 0))
    with pytest.raises(ValueError, match="reasons must have 21 entries"):
        render(STOP, (0, 1))


def test_parse_inverts_render_for_every_pair_of_single_labels():
    for a in range(BDD_OIA.num_actions):
        for r in range(BDD_OIA.num_reasons):
            answer = parse(render(one_hot(a, BDD_OIA.num_actions), one_hot(r)))
            assert answer == (one_hot(a, BDD_OIA.num_actions), one_hot(r), ())


def test_parse_inverts_render_for_every_label_set_in_the_real_files(shared_data):
    seen = set()
    for split in ("train", "val", "test"):
        rows = json.loads((shared_data / "bddoia_annotations" / f"gt_4a_21r_{split}.json").read_text())
        seen |= {(tuple(row["actions"]), tuple(row["reason"])) for row in rows.values()}
    assert len(seen) == 907
    assert all(parse(render(a, r)) == (a, r, ()) for a, r in seen)


def test_parse_is_free_in_case_spacing_and_long_action_names():
    answer = parse("  ACTION:  Turn  left ,move forward.  reason: Obstacle:  car, FOLLOW traffic. ")
    assert answer.actions == (1, 0, 1, 0)
    assert [BDD_OIA.reasons[i].key for i, flag in enumerate(answer.reasons) if flag] == ["f_follow_traffic", "s_ob_car"]
    assert answer.is_valid


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [Flaw.NO_ACTION]),
        ("A car is parked.", [Flaw.NO_ACTION]),
        ("Action: stop.", [Flaw.NO_REASON]),
        ("Action: . Reason: follow traffic.", [Flaw.EMPTY_ACTION]),
        ("Action: stop. Reason: .", [Flaw.EMPTY_REASON]),
        ("Action: fly. Reason: road is clear.", [Flaw.UNKNOWN_ACTION]),
        ("Action: stop. Reason: bad weather.", [Flaw.UNKNOWN_REASON]),
        ("Action: stop, stop. Reason: obstacle: car.", [Flaw.REPEATED]),
        ("Action: none, stop. Reason: obstacle: car.", [Flaw.NONE_WITH_OTHERS]),
        ("Action: stop. Reason: obstacle: car. And more.", [Flaw.TRAILING_TEXT]),
        ("Action: stop. Reason: obstacle: car. Action: left.", [Flaw.TRAILING_TEXT]),
    ],
)
def test_parse_names_what_is_wrong(text, expected):
    assert flaws(text) == expected


def test_a_flawed_answer_keeps_what_could_be_read():
    answer = parse("Action: stop, fly. Reason: traffic sign, bad weather.")
    assert answer.actions == STOP
    assert answer.reasons == one_hot(BDD_OIA.reason_index["s_traffic_sign"])
    assert [p.words for p in answer.problems] == ["fly", "bad weather"]


def test_mirror_exchanges_sides_and_leaves_what_is_no_side():
    text = "A red car is right ahead, RIGHT of way, on the Left lane: no left-turn lane, bright lights leftover."
    other = "A red car is right ahead, RIGHT of way, on the Right lane: no right-turn lane, bright lights leftover."
    assert mirror_text(text) == other
    assert mirror_text(mirror_text(text)) == text


def test_mirrored_answers_are_answers_of_mirrored_labels():
    for i in range(4):
        for j in range(21):
            actions, reasons = [int(k == i) for k in range(4)], [int(k == j) for k in range(21)]
            other = [actions[k] for k in BDD_OIA.mirrored_actions], [reasons[k] for k in BDD_OIA.mirrored_reasons]
            assert mirror_text(render(actions, reasons)) == render(*other)
