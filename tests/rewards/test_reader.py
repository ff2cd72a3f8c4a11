"""Likelihoods of labels given a description, by hand."""

import json
import math

import pytest
import torch

from lvad.data.pseudo_labels import PseudoLabel, write_pseudo_labels
from lvad.rewards import Agreement, Mix, Reader
from lvad.rewards.agreement import answer_f1
from lvad.rewards.reader import LabelledScene, ReaderParts, label_logps, load_reader, save_reader
from lvad.text import render

STOP = [0, 1, 0, 0, *[0] * 21]
LEFT = [0, 0, 1, 0, *[0] * 21]


@pytest.fixture
def folder(tmp_path):
    """Two folds; only the word "red" tells, and only of label 1: log-odds log 3 and log 7, and log 15 by both."""
    weights = torch.zeros(3, 2, 25, dtype=torch.float64)
    weights[:, 1, 1] = torch.tensor([3.0, 7.0, 15.0]).log()
    scenes = {"scene-0": LabelledScene(0, STOP), "scene-1": LabelledScene(1, LEFT)}
    parts = ReaderParts(["light", "red"], weights, torch.zeros(3, 25, dtype=torch.float64), scenes, {})
    save_reader(tmp_path, parts, None)
    write_pseudo_labels(tmp_path, {"scene-2": PseudoLabel(tuple(STOP[:4]), tuple(STOP[4:]), 0.95)})
    return tmp_path


def rollouts_of(texts):
    from lvad.audit.scoring import texts_as_rollouts

    return texts_as_rollouts(texts, torch.device("cpu"))


def test_label_logps_by_hand():
    # sigmoid(0) = 1/2 and sigmoid(log 3) = 3/4; the label is wrong, then right.
    logits, labels = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    expected = [(math.log(1 / 2) + math.log(1 / 4)) / 2, (math.log(1 / 2) + math.log(3 / 4)) / 2]
    assert label_logps(logits, labels).tolist() == pytest.approx(expected)


def test_each_scene_is_judged_by_the_model_that_has_not_seen_it(folder, make_batch):
    batch = make_batch(1, 1, 1, 1)  # scene-0 .. scene-3, without labels
    scores = Reader(str(folder)).score(batch, rollouts_of([["a red light", "nothing"]] * 4))
    rest = 24 * math.log(1 / 2)

    def nats(p):
        return (rest + math.log(p)) / 25

    plain = math.log(1 / 2)
    expected = [[nats(3 / 4), plain], [nats(1 / 8), plain], [nats(15 / 16), plain], [0.0, 0.0]]
    torch.testing.assert_close(scores.total, torch.tensor(expected))
    assert scores.terms["known"][:, 0].tolist() == [1, 1, 1, 0]


def test_labels_that_are_shown_win(folder, make_batch):
    batch = make_batch(1, 1, 1, 1)
    batch = batch._replace(actions=torch.tensor([LEFT[:4]] * 4), reasons=torch.tensor([LEFT[4:]] * 4))
    scores = Reader(str(folder)).score(batch, rollouts_of([["red"]] * 4))
    # "stop" is wrong now; a known scene keeps its model, others have the last.
    wrong = [(24 * math.log(1 / 2) + math.log(p)) / 25 for p in (1 / 4, 1 / 8, 1 / 16, 1 / 16)]
    torch.testing.assert_close(scores.total[:, 0], torch.tensor(wrong))


def test_a_mix_leaves_a_scene_of_which_nothing_is_known_to_the_others(folder, make_batch):
    from lvad.rewards import Repetition

    mix = Mix({"reader": Reader(str(folder)), "rule": Repetition()}, {"reader": 1.0, "rule": 1.0})
    scores = mix.score(make_batch(1, 1, 1, 1), rollouts_of([["red red", "a red light"]] * 4))
    assert scores.total[3].tolist() == [-0.5, 0.0]
    assert {"reader", "rule", "reader/known"} <= scores.terms.keys()


def test_what_is_saved_is_what_is_loaded(folder):
    parts = load_reader(folder)
    again = folder / "again"
    save_reader(again, parts, None)
    (again / "pseudo_labels.json").write_text((folder / "pseudo_labels.json").read_text())
    loaded = load_reader(again)
    assert torch.equal(loaded.weights, parts.weights)
    assert torch.equal(loaded.offsets, parts.offsets)
    assert loaded[0] == parts[0] == ["light", "red"]
    assert loaded[3:] == parts[3:] == ({"scene-0": (0, STOP), "scene-1": (1, LEFT)}, {"scene-2": STOP})


def test_another_folder_is_refused(tmp_path, folder):
    with pytest.raises(ValueError, match=r"holds no reader\.json"):
        Reader(str(tmp_path.parent))
    config = json.loads((folder / "reader.json").read_text())
    config["scenes"]["scene-0"]["labels"] = [1]
    (folder / "reader.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="'scene-0' has 1 labels, the weights 25"):
        Reader(str(folder))
    config["scenes"] = {"scene-0": {"fold": 2, "labels": STOP}}
    (folder / "reader.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="fold is none of the 2"):
        Reader(str(folder))


def test_agreement_by_hand():
    reasons = [1, 1, *[0] * 19]
    # Actions {stop} against {stop, left}: 2 * 1 / 3. Reasons: one of two named, 2 * 1 / 3.
    said = render([0, 1, 0, 0], [1, *[0] * 20])
    assert answer_f1(said, [0, 1, 1, 0], reasons) == pytest.approx(2 / 3)
    assert answer_f1(render([0, 1, 1, 0], reasons), [0, 1, 1, 0], reasons) == 1.0
    assert answer_f1(render([0] * 4, [0] * 21), [0] * 4, [0] * 21) == 1.0
    assert answer_f1("a red light", [0] * 4, [0] * 21) == 0.0


def test_answers_are_held_against_what_is_known(folder, make_batch):
    stop, left = (render(row[:4], row[4:]) for row in (STOP, LEFT))
    scores = Agreement(str(folder)).score(make_batch(1, 1, 1, 1), rollouts_of([[stop, left]] * 4))
    # Both name no reason, which is right: half of the reward.
    assert scores.total.tolist() == [[1.0, 0.5], [0.5, 1.0], [1.0, 0.5], [0.0, 0.0]]
