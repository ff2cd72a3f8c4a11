"""The record of answers: validity, and constant answers beside it."""

import pytest
import torch

from lvad.answers.answer_probabilities import AnswerProbabilities
from lvad.answers.answer_records import answered_scenes, floors, floors_table, parse_answers, training_labels
from lvad.metrics.driving import answers_of
from lvad.text import render
from lvad.types import Scene


def labelled(make_batch, actions, reasons):
    batch = make_batch(*[1] * len(actions))
    return batch._replace(actions=torch.tensor(actions), reasons=torch.tensor(reasons))


def test_an_action_alone_is_an_answer_only_where_no_reason_is_asked_for(make_batch):
    batch = labelled(make_batch, [[0, 1, 0, 0]] * 3, [[0] * 21] * 3)
    texts = ["Action: stop.", "Action: stop. Reason: traffic sign.", "I would stop."]
    for with_reasons, valid in ((False, [True, True, False]), (True, [False, True, False])):
        answers = parse_answers(texts, with_reasons)
        probabilities = AnswerProbabilities(
            torch.full((3, 16), 1 / 16).log(), torch.full((3, 21), 0.25) if with_reasons else None
        )
        found = answered_scenes(batch, texts, answers, ["a", "b", "c"], probabilities)
        assert [scene.is_valid for scene in found] == valid
        assert [scene.description for scene in found] == ["a", "b", "c"]
        assert [scene.actions for scene in found] == [(0, 1, 0, 0), (0, 1, 0, 0), (0, 0, 0, 0)]
        assert found[1].reasons[8] == 1
        assert found[0].action_probabilities == pytest.approx([0.5] * 4)
        assert found[0].reason_probabilities == ((0.25,) * 21 if with_reasons else ())


def test_scenes_without_labels_are_recorded_without_truth(make_batch):
    text = ["Action: stop."]
    (scene,) = answered_scenes(make_batch(1), text, parse_answers(text, False), [""], None)
    assert (scene.true_actions, scene.true_reasons) == (None, None)
    assert training_labels([Scene("a", (), "train")], with_reasons=False) is None


def test_the_truth_has_full_marks_in_the_table_and_constants_do_not(make_batch):
    actions = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]]
    batch = labelled(make_batch, actions, [[0] * 21] * 4)
    texts = [render(row) for row in actions]
    answered = answered_scenes(batch, texts, parse_answers(texts, False), [""] * 4, None)
    train = [Scene(str(i), (), "train", (0, 1, 0, 0), (0,) * 21) for i in range(3)]
    labels = training_labels(train, with_reasons=False)
    answers = answers_of(answered, with_reasons=False)
    table = floors_table(answers, floors(answers, labels))
    assert table.columns == (
        "score",
        "model (95 % interval)",
        "always stop",
        "majority",
        "all positive",
        "all negative",
    )
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["action_exact_match"][0].startswith("100.0 (100.0 to 100.0)")
    # Always stop: right in one scene of four; of the bits it misses forward, stop; left, stop; right: 5 of 16.
    assert rows["action_exact_match"][1] == "25.0"
    assert rows["action_bit_accuracy"][1] == "68.8"
