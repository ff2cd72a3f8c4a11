"""The record of answers: probabilities by enumeration, validity, and constant answers beside it."""

import itertools

import pytest
import torch

from lvad.metrics.driving import answers_of
from lvad.modules.answering import action_probabilities, answered_scenes, floors, floors_table, training_labels
from lvad.policy import HFPolicy, Sampling
from lvad.text import render
from lvad.types import Scene


@pytest.fixture(scope="module")
def policy(vlm_folder):
    torch.manual_seed(0)
    return HFPolicy(str(vlm_folder), Sampling(max_new_tokens=30), lora=None).eval()


@torch.no_grad()
def test_action_probabilities_are_those_of_all_sets_scored_one_by_one(policy, make_batch):
    batch = make_batch(2, 1, seed=3)
    prefix = policy.encode(batch)
    sets = list(itertools.product((0, 1), repeat=4))
    columns = []
    for row in sets:
        targets = policy.targets([[render(row)]] * 2)
        logps = policy.logprobs(prefix, targets)[:, 0]
        lengths = targets.completion_mask[:, 0].sum(1)
        # Without the last token, the end.
        columns.append(torch.stack([logps[b, : lengths[b] - 1].sum() for b in range(2)]))
    weights = torch.stack(columns, 1).softmax(1)
    expected = [[sum(weights[b, i] for i, row in enumerate(sets) if row[a]) for a in range(4)] for b in range(2)]
    found = action_probabilities(policy, prefix)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert not torch.equal(found[0], found[1])


def labelled(make_batch, actions, reasons):
    batch = make_batch(*[1] * len(actions))
    return batch._replace(actions=torch.tensor(actions), reasons=torch.tensor(reasons))


def test_an_action_alone_is_an_answer_only_where_no_reason_is_asked_for(make_batch):
    batch = labelled(make_batch, [[0, 1, 0, 0]] * 3, [[0] * 21] * 3)
    texts = ["Action: stop.", "Action: stop. Reason: traffic sign.", "I would stop."]
    for with_reasons, valid in ((False, [True, True, False]), (True, [False, True, False])):
        found = answered_scenes(batch, texts, ["a", "b", "c"], torch.full((3, 4), 0.25), with_reasons)
        assert [scene.is_valid for scene in found] == valid
        assert [scene.description for scene in found] == ["a", "b", "c"]
        assert [scene.actions for scene in found] == [(0, 1, 0, 0), (0, 1, 0, 0), (0, 0, 0, 0)]
        assert found[1].reasons[8] == 1
        assert found[0].action_probabilities == (0.25,) * 4


def test_scenes_without_labels_are_recorded_without_truth(make_batch):
    (scene,) = answered_scenes(make_batch(1), ["Action: stop."], [""], torch.zeros(1, 4), False)
    assert (scene.true_actions, scene.true_reasons) == (None, None)
    assert training_labels([Scene("a", (), "train")], with_reasons=False) is None


def test_the_truth_has_full_marks_in_the_table_and_constants_do_not(make_batch):
    actions = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]]
    batch = labelled(make_batch, actions, [[0] * 21] * 4)
    answered = answered_scenes(batch, [render(row) for row in actions], [""] * 4, torch.tensor(actions).float(), False)
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
