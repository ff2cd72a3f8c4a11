"""One answered scene as a picture."""

import numpy as np
import pytest
import torch
from answered import FORWARD, NO_REASON, STOP, scene

from lvad.report.answer_picture import (
    CELL_PX,
    GREEN,
    GREY,
    RED,
    Explanation,
    action_words,
    arrow_row,
    draw_answer,
    explanations,
    outcomes,
    true_words,
)
from lvad.report.scene_pictures import WIDTH_PX
from lvad.taxonomy import BDD_OIA


def test_outcomes_of_all_four_cases():
    assert outcomes((1, 1, 0, 0), (1, 0, 1, 0)) == ["TP", "FP", "FN", "TN"]
    assert outcomes((1, 0), None) == ["P", "N"]


def test_explanations_come_as_hits_then_inventions_then_misses():
    said, true = (0, 1, 1, *[0] * 18), (1, 0, 1, *[0] * 18)
    rows = explanations(scene("a", STOP, STOP, said, true))
    assert rows == [
        Explanation("TP", BDD_OIA.reason_texts[2]),
        Explanation("FP", BDD_OIA.reason_texts[1]),
        Explanation("FN", BDD_OIA.reason_texts[0]),
    ]
    with_probabilities = scene("a", STOP, STOP, said, true, reason_probabilities=(0.25,) * 21)
    assert explanations(with_probabilities)[0].text == f"{BDD_OIA.reason_texts[2]}  (0.25)"


def test_what_is_true_in_words():
    assert true_words(scene("a", STOP, (1, 0, 0, 1))) == "true actions: forward, right"
    assert true_words(scene("a", STOP, (0, 0, 0, 0))) == "true actions: none"
    assert true_words(scene("a", STOP, None)) == "true actions: unknown"


def test_actions_stand_with_their_probabilities():
    assert action_words(scene("a", STOP, STOP)) == ["forward", "stop", "left", "right"]
    row = action_words(scene("a", STOP, STOP, action_probabilities=(0.031, 0.9, 0.0, 1.0)))
    assert row == ["forward 0.03", "stop 0.90", "left 0.00", "right 1.00"]


def has(pixels, colour):
    return bool((np.abs(pixels.astype(int) - colour).max(-1) < 8).any())


@pytest.mark.parametrize("said", [FORWARD, STOP, (0, 0, 1, 1)])
def test_an_arrow_is_green_where_its_action_is_said(said):
    pixels = np.asarray(arrow_row(scene("a", said, None)))
    cells = [pixels[:, i * CELL_PX : (i + 1) * CELL_PX] for i in range(4)]
    assert [has(cell, GREEN) for cell in cells] == [bool(flag) for flag in said]


def test_a_picture_shows_hits_green_inventions_red_and_misses_grey():
    frames = torch.zeros(2, 3, 90, 160, dtype=torch.uint8)
    hit = (1, *[0] * 20)
    right = np.asarray(draw_answer(scene("a", STOP, STOP, hit, hit), frames))
    wrong = np.asarray(draw_answer(scene("a", STOP, STOP, hit, NO_REASON), frames))
    missed = np.asarray(draw_answer(scene("a", STOP, STOP, NO_REASON, hit), frames))
    assert right.shape[1] == WIDTH_PX
    assert [has(pixels, RED) for pixels in (right, wrong, missed)] == [False, True, False]
    assert has(missed[-60:], GREY)
    assert has(right[-60:], GREEN)


def test_a_flaw_and_long_texts_make_it_higher_and_no_wider():
    frames = torch.zeros(1, 3, 90, 160, dtype=torch.uint8)
    plain = draw_answer(scene("a", STOP, STOP), frames)
    long = draw_answer(scene("b" * 500, STOP, STOP, text="x " * 900, description="y " * 900, is_valid=False), frames)
    assert long.width == plain.width == WIDTH_PX
    assert plain.height < long.height < plain.height + 400


def test_other_frames_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        draw_answer(scene("a", STOP, STOP), torch.zeros(1, 3, 4, 4))
