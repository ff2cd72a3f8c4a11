"""A budget of labels: which scenes keep theirs, and what becomes of the others."""

import json
from itertools import pairwise

import pytest
from layouts import FACTS, GO, GREEN, RED, STOP, flags, gt, lastframe

from lvad.data.datamodule import BDDOIADataModule
from lvad.data.source import Source
from lvad.data.split import LabelBudget, SceneCounts, Split
from lvad.errors import DataError
from lvad.types import Scene

STAGES = ({}, {"rest": "unlabelled"}, {"source": {"num_drawn": SceneCounts(val=3)}}, {"batch_size": 3})


@pytest.fixture
def root(tmp_path) -> str:
    for split, count in (("train", 20), ("val", 4), ("test", 6)):
        rows = {f"{split}{i}": ((GO, GREEN), (STOP, RED), (STOP, flags(3, 7)))[i % 3] for i in range(count)}
        gt(tmp_path, split, rows)
    return str(tmp_path)


def ready(root, seed=0, batch_size=8, source=None, **split) -> BDDOIADataModule:
    source = Source("gt_4a_21r", root, **(source or {}))
    data = BDDOIADataModule(source, Split(**split), batch_size, seed=seed)
    data.setup()
    return data


def labelled(data, split="train"):
    return {scene.id for scene in data.scenes[split] if scene.actions is not None or scene.reasons is not None}


def test_budgets_are_nested_and_the_same_in_every_stage_of_a_seed(root):
    chosen = [labelled(ready(root, budget=n)) for n in (0, 3, 6, 12, 20)]
    assert [len(ids) for ids in chosen] == [0, 3, 6, 12, 20]
    assert all(small < large for small, large in pairwise(chosen))
    for options in STAGES:
        assert labelled(ready(root, budget=6, **options)) == chosen[2]
    assert labelled(ready(root, budget=6, seed=1)) != chosen[2]
    # As many as num_scenes takes, and the same ones.
    assert labelled(ready(root, num_scenes=SceneCounts(train=6))) == chosen[2]


def test_the_rest_is_left_out_or_loses_every_label(root):
    whole = ready(root)
    dropped, kept = ready(root, budget=6), ready(root, budget=6, rest="unlabelled")
    assert [len(data.scenes["train"]) for data in (dropped, kept)] == [6, 20]
    assert [scene.id for scene in kept.scenes["train"]] == [scene.id for scene in whole.scenes["train"]]
    hidden = [scene for scene in kept.scenes["train"] if scene.id not in labelled(kept)]
    assert len(hidden) == 14
    assert all(scene[3:8] == (None, None, (), None, False) for scene in hidden)
    assert dropped.scenes["test"] == kept.scenes["test"] == whole.scenes["test"]
    assert "budget: 6 labels, no validation scenes; the other training scenes: drop" in dropped.summary()


def test_captions_and_facts_are_labels_too(tmp_path):
    root = lastframe(tmp_path, "train", [(f"a{i}_1.jpg", STOP, RED) for i in range(10)])
    lastframe(tmp_path, "test", [("b_1.jpg", STOP, RED)])
    facts = FACTS | {"light": "red"}
    lines = [json.dumps({"id": f"a{i}", "captions": ["A red light."], "facts": facts}) for i in range(10)]
    (root / "train_scenes.jsonl").write_text("\n".join(lines))
    data = BDDOIADataModule(Source("auto", str(root)), Split(budget=4, rest="unlabelled"))
    data.setup()
    assert [len(scene.captions) for scene in data.scenes["train"]].count(1) == 4
    assert {scene.id for scene in data.scenes["train"] if scene.captions} == labelled(data)


def test_validation_is_paid_out_of_the_budget(root):
    assert ready(root, budget=6).val_dataloader() == []
    data = ready(root, budget=6, budget_val=2, rest="unlabelled")
    assert [len(labelled(data, split)) for split in ("train", "val")] == [4, 2]
    assert labelled(data, "train") | labelled(data, "val") == labelled(ready(root, budget=6))
    assert labelled(data, "val") == labelled(ready(root, budget=12, budget_val=2), "val")
    assert len(data.scenes["train"]) == 18  # the validation scenes are no unlabelled ones either
    assert {scene.split for scene in data.scenes["val"]} == {"val"}
    uses = data.stage_ledger("ActionSFT")
    assert {use: len(ids) for use, ids in uses.items()} == {
        "ActionSFT train, labelled": 4,
        "ActionSFT train, unlabelled": 14,
        "ActionSFT val, labelled": 2,
    }


def test_unlabelled_takes_the_budgets_labels_too(root):
    data = ready(root, budget=6, rest="unlabelled", unlabelled=True)
    assert (len(data.scenes["train"]), labelled(data)) == (20, set())
    assert not any("labelled" in use and "unlabelled" not in use for use in data.stage_ledger("RLOOPolicy"))


def test_what_cannot_be_chosen_is_refused(root):
    with pytest.raises(DataError, match="budget must be at most the 20 training scenes with labels, got 21"):
        ready(root, budget=21)
    for amount in (6, 0.5, 1):
        with pytest.raises(ValueError, match=r"cannot be set with num_scenes\.train: set that to null"):
            ready(root, budget=6, num_scenes=SceneCounts(train=amount))
    with pytest.raises(ValueError, match="cannot be set with footage"):
        BDDOIADataModule(Source(footage="shards"), Split(budget=6))
    assert len(ready(root, budget=6, num_scenes=SceneCounts(train=1.0, val=2)).scenes["train"]) == 6
    for counts, message in (((-1,), "at least 0"), ((4, -1), "at least 0"), ((4, 4), "less than"), ((0, 1), "less")):
        with pytest.raises(ValueError, match=message):
            LabelBudget(*counts)


def test_texts_are_the_labels_where_no_scene_has_actions():
    texts = [Scene(f"t{i}", (), "train", captions=("It is night.",)) for i in range(4)]
    bare = [Scene("bare", (), "train")]
    spent = LabelBudget(2).apply({"train": [*texts, *bare], "val": [], "test": []}, seed=0)
    assert [len(scene.captions) for scene in spent["train"]] == [1, 1]
    labelled = [Scene("answered", (), "train", (0, 1, 0, 0), (0,) * 21)]
    spent = LabelBudget(1).apply({"train": [*texts, *labelled], "val": [], "test": []}, seed=0)
    assert spent["train"] == labelled
