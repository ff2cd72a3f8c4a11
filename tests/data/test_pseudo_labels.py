"""Pseudo-labels: the file, whom they are given to, and that they cost no label."""

import json

import pytest

from lvad.data.datamodule import BDDOIADataModule
from lvad.data.ledger import LEDGER, dump_ledger
from lvad.data.pseudo_labels import PseudoLabel, read_pseudo_labels, write_pseudo_labels
from lvad.data.source import Source
from lvad.data.split import SceneCounts, Split
from lvad.errors import DataError

STOP = PseudoLabel((0, 1, 0, 0), (0,) * 21, 0.95)


def given(folder, labels):
    (folder / LEDGER).write_text(dump_ledger({"ActionSFT train, labelled": ["teacher-scene"]}))
    return str(write_pseudo_labels(folder, labels))


def ready(root, **split):
    data = BDDOIADataModule(Source("lastframe", str(root)), Split(**split))
    data.setup()
    return data


def test_what_is_written_is_read(tmp_path):
    labels = {"a": STOP, "b": PseudoLabel((1, 0, 0, 1), (1,) * 21, 1.0)}
    assert read_pseudo_labels(write_pseudo_labels(tmp_path, labels)) == labels


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"probability": 1.5}, r"scene 'a': probability must be in \[0, 1\], got 1.5"),
        ({"probability": float("nan")}, "got nan"),
        ({"actions": [1, 0]}, "actions must be a list of 4 entries, got 2 entries"),
        ({"reasons": [2] * 21}, "reasons must hold only 0 and 1, got 2"),
        ({"more": 1}, "must be a mapping of"),
    ],
)
def test_what_is_no_pseudo_label_is_refused_by_name(tmp_path, changed, message):
    row = {"actions": [0, 1, 0, 0], "reasons": [0] * 21, "probability": 0.9}
    (tmp_path / "labels.json").write_text(json.dumps({"a": row | changed}))
    with pytest.raises(DataError, match=message):
        read_pseudo_labels(tmp_path / "labels.json")


def test_only_training_scenes_without_labels_of_their_own_are_given_some(drawn_root, tmp_path):
    """Whether they are left out or kept without labels; those that the file does not name are left out."""
    everyone = ready(drawn_root)
    names = {split: [scene.id for scene in scenes] for split, scenes in everyone.scenes.items()}
    assert everyone.pool == []
    path = given(tmp_path, dict.fromkeys([*names["train"][:12], *names["val"], *names["test"]], STOP))
    for choice in ({"num_scenes": SceneCounts(train=4)}, {"budget": 4}, {"budget": 4, "rest": "unlabelled"}):
        data = ready(drawn_root, **choice)
        own = {scene.id: scene for scene in data.scenes["train"] if scene.actions is not None}
        assert len(own) == 4
        assert {scene.id for scene in data.pool} == set(names["train"]) - set(own)
        assert all(scene.actions is scene.facts is None and not scene.captions for scene in data.pool)
        data = ready(drawn_root, **choice, pseudo_labels=path)
        pseudo = {scene.id: scene.actions for scene in data.scenes["train"] if scene.is_pseudo}
        assert pseudo == dict.fromkeys(set(names["train"][:12]) - set(own), STOP.actions)
        assert {s.id: s for s in data.scenes["train"] if not s.is_pseudo} == own
        assert not any(scene.is_pseudo for split in ("val", "test") for scene in data.scenes[split])


def test_scenes_that_validate_are_no_pool(drawn_root):
    data = ready(drawn_root, budget=6, budget_val=2)
    assert len(data.pool) == 10
    assert not {scene.id for scene in data.pool} & {scene.id for scene in data.scenes["val"]}


def test_pseudo_labels_cost_no_label_but_those_that_they_were_made_of(drawn_root, tmp_path):
    names = [scene.id for scene in ready(drawn_root).scenes["train"]]
    path = given(tmp_path, dict.fromkeys(names, STOP))
    uses = ready(drawn_root, budget=4, pseudo_labels=path).stage_ledger("Student")
    counts = {use: len(ids) for use, ids in uses.items()}
    assert counts == {
        "ActionSFT train, labelled": 1, "Student train, labelled": 4, "Student train, pseudo-labelled": 12,
    }  # fmt: skip


def test_labels_for_nothing_here_are_refused(drawn_root, tmp_path):
    path = given(tmp_path, {"elsewhere": STOP})
    with pytest.raises(DataError, match="none of its 1 scenes is a training scene without a label here"):
        ready(drawn_root, budget=4, pseudo_labels=path)
    with pytest.raises(ValueError, match="pseudo_labels gives labels to training scenes: set unlabelled to false"):
        Split(pseudo_labels=path, unlabelled=True)
    with pytest.raises(ValueError, match="pseudo_labels gives labels to training scenes: set footage to null"):
        BDDOIADataModule(Source("lastframe", str(drawn_root), footage="shards"), Split(pseudo_labels=path))


def test_labels_of_which_nobody_knows_are_refused(drawn_root, tmp_path):
    path = given(tmp_path, {})
    (tmp_path / LEDGER).unlink()
    with pytest.raises(DataError, match="nothing tells which scenes the run has seen"):
        ready(drawn_root, budget=4, pseudo_labels=path).stage_ledger("Student")
    with pytest.raises(DataError, match="cannot be read"):
        ready(drawn_root, budget=4, pseudo_labels=str(tmp_path / "none.json"))
