"""Scenes of people's own: what a line may say, and what each fault is called."""

import json
from pathlib import Path

import pytest
from layouts import FACTS, flags, picture

from lvad.data.check import check_source
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.layouts import detect_layout, read_source
from lvad.data.source import Source
from lvad.data.split import Split
from lvad.errors import DataError
from lvad.taxonomy import BDD_OIA
from lvad.types import Scene

STOP = {"actions": ["stop"], "reasons": ["traffic sign"]}
NO_LIGHT = {attribute: value for attribute, value in FACTS.items() if attribute != "light"}


def write(path: Path, *rows: object) -> Path:
    """Lines of a file, and a picture for every path that they name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    for row in rows:
        for frame in [*row.get("frames", []), *row.get("images", [])] if isinstance(row, dict) else []:
            picture(path.parent / frame)
    return path


def one_error(path: Path, **options) -> str:
    (error,) = read_source(path, **options).errors
    return str(error)


def test_a_line_is_a_scene(tmp_path):
    row = {"id": "one", "frames": ["p/a_0.jpg", "p/a_1.jpg", "p/a_2.jpg"], "split": "val", "recording": "drive 1"}
    labels = {"actions": ["Turn  left", "stop"], "reasons": ["s_traffic_light", "Traffic sign"]}
    path = write(tmp_path / "mine.jsonl", {**row, **labels, "text": "It is night."}, "", {"frames": ["b.jpg"]})
    first, second = read_source(path).require().scenes
    frames = (tmp_path / "p/a_1.jpg", tmp_path / "p/a_2.jpg")
    reasons = tuple(int(name in (7, 8)) for name in range(21))  # traffic light is not green, traffic sign
    # forward, stop, left, right: "turn left" is an alias.
    assert first == Scene("one", frames, "val", (0, 1, 1, 0), reasons, ("It is night.",), None, False, "drive 1")
    assert second == Scene("b", (tmp_path / "b.jpg",), "train")
    assert "1 lines without a split train, as others name one" in read_source(path).require().warnings


def test_several_texts_and_facts(tmp_path):
    row = {"frames": ["a.jpg"], "text": ["One.", " Two. "], "facts": FACTS}
    (scene,) = read_source(write(tmp_path / "scenes.jsonl", row)).require().scenes
    assert (scene.captions, scene.facts, scene.actions) == (("One.", "Two."), FACTS, None)


def test_a_folder_is_found_out_and_its_files_are_splits(tmp_path):
    for split in ("train", "val", "test"):
        write(tmp_path / f"{split}.jsonl", {"id": "x", "frames": [f"{split}/a.jpg"], **STOP})
    assert detect_layout(tmp_path) == detect_layout(tmp_path / "val.jsonl") == "jsonl"
    reading = read_source(tmp_path).require()
    assert [scene.split for scene in reading.scenes] == ["train", "val", "test"]
    assert reading.warnings == ["1 ids are in more than one split, first 'x'"]
    write(tmp_path / "scenes.jsonl", {"frames": ["c.jpg"]})
    assert [scene.id for scene in read_source(tmp_path).require().scenes] == ["c", "x", "x", "x"]


def test_pictures_may_lie_elsewhere(tmp_path):
    path = write(tmp_path / "labels/scenes.jsonl", {"frames": ["../far/a.jpg"], **STOP})
    assert read_source(path).require().scenes[0].id == "far/a"
    (tmp_path / "labels/scenes.jsonl").write_text(json.dumps({"frames": ["a.jpg"], **STOP}))
    assert read_source(path, images=tmp_path / "far").require().scenes[0].frames == (tmp_path / "far/a.jpg",)
    picture(tmp_path / "b.jpg")
    path.write_text(json.dumps({"frames": [str(tmp_path / "b.jpg")]}))
    assert read_source(path).require().scenes[0].frames == (tmp_path / "b.jpg",)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "not usable JSON: "),
        ('{"id": "a", "id": "b"}', "not usable JSON: duplicate id 'id'"),
        ("[]", r"expected an object, got \[\]"),
        ({"frames": ["a.jpg"], "action": []}, "unknown key 'action'; write 'actions'"),
        (
            {"frames": ["a.jpg"], "speed": 3},
            "unknown key 'speed'; use one of id, frames, video, start_s, end_s",
        ),
        ({"frames": ["a.jpg"], "split": "training"}, "unknown split 'training'; write 'train'"),
        ({"frames": ["a.jpg"], "id": "../a"}, "id '../a' leads out of its folder"),
        ({"id": "a"}, "frames must be a list of paths, got None"),
        ({"frames": ["a.jpg"], "text": ""}, "text must be a text or a list of texts, none of them empty, got ''"),
        ({"frames": ["a.jpg"], "facts": {"light": 1}}, "facts must be an object of texts"),
        ({"frames": ["a.jpg"], "facts": FACTS | {"lihgt": "red"}}, "unknown attribute of facts 'lihgt'; write 'light'"),
        (
            {"frames": ["a.jpg"], "facts": FACTS | {"light": "Red"}},
            "unknown value of 'light' in facts 'Red'; write 'red'",
        ),
        ({"frames": ["a.jpg"], "facts": NO_LIGHT, "text": "A red light."}, "facts of scene 'a' lack 'light'; name"),
        ({"frames": ["a.jpg"], "actions": ["stop"]}, "has actions but no reasons; give both"),
        ({"frames": ["a.jpg"], "actions": "stop", "reasons": []}, "actions must be a list of names, got 'stop'"),
        ({"frames": ["a.jpg"], "actions": ["stop", "stop"], "reasons": []}, "action 'stop' is named twice"),
        (
            {"frames": ["a.jpg"], "actions": ["fowrard"], "reasons": []},
            "unknown action 'fowrard' in the label set 'bdd_oia'; write 'forward', or give the label set",
        ),
        (
            {"frames": ["a.jpg"], "actions": [], "reasons": ["traffic sing"]},
            "unknown reason 'traffic sing' in the label set 'bdd_oia'; write 'traffic sign', or give",
        ),
        ({"frames": ["a.jpg"], "actions": ["xyz"], "reasons": []}, "write one of 'forward', 'stop', 'left', 'right'"),
        ({"frames": ["a.gif"]}, "frame '.*a.gif' is of a format that is not read; convert it"),
    ],
)
def test_a_fault_names_file_line_and_remedy(tmp_path, row, said):
    path = write(tmp_path / "scenes.jsonl", {"frames": ["ok.jpg"]}, row)
    with pytest.raises(DataError, match=rf"{path}, line 2: .*{said}|{path}, line 2: {said}"):
        read_source(path).require()
    assert len(read_source(path).errors) == 1


def test_missing_frames_and_repeated_ids_are_counted_and_the_rest_is_read(tmp_path):
    rows = [{"frames": [f"{i}.jpg"], **STOP} for i in range(6)]
    path = write(tmp_path / "scenes.jsonl", *rows, rows[5], {"id": "none", "frames": []})
    (tmp_path / "1.jpg").unlink()
    (tmp_path / "3.jpg").unlink()
    report = check_source(path)
    assert report.splits == {"unsplit": 4}
    assert [error.partition(", ")[2][:50].partition(" '")[0] for error in report.errors] == [
        "line 7: duplicate id",
        "line 2: frame",
        "line 4: frame",
        "line 8: names no frames; list the pictures of the ",
    ]
    assert "3.jpg' is missing; restore it" in report.errors[2]
    with pytest.raises(DataError, match=r"line 7: duplicate id '5'; .*\(3 more;"):
        read_source(path).require()


@pytest.mark.parametrize("splits", [({}, {"split": "train"}), ({"split": "train"}, {})])
def test_an_id_is_repeated_whether_a_line_names_its_split_or_not(tmp_path, splits):
    rows = [{"id": "x", "frames": [f"{i}.jpg"], **split} for i, split in enumerate(splits)]
    path = write(tmp_path / "scenes.jsonl", *rows, {"id": "x", "frames": ["2.jpg"], "split": "val"})
    reading = read_source(path)
    assert [(scene.split, scene.frames[0].name) for scene in reading.scenes] == [("train", "0.jpg"), ("val", "2.jpg")]
    assert [str(error).partition(", ")[2] for error in reading.errors] == [
        "line 2: duplicate id 'x'; remove one of the lines, or give each an id of its own"
    ]


def test_a_split_that_contradicts_its_file_is_named(tmp_path):
    path = write(tmp_path / "test.jsonl", {"frames": ["a.jpg"], "split": "train"})
    assert f"{path}, line 1: split 'train' in the file of split 'test'; move the line" in one_error(tmp_path)


def test_labels_without_pictures_are_counted_and_not_trained_on(tmp_path):
    path = write(tmp_path / "scenes.jsonl", {"id": "a", "frames": [], **STOP, "split": "train"})
    report = check_source(path)
    assert (report.errors, report.images, report.splits) == ([], "not checked", {"train": 1})
    with pytest.raises(DataError, match="no pictures beside the label files"):
        Source("jsonl", str(path)).read(BDD_OIA)


@pytest.fixture
def drives(tmp_path):
    """Ten recordings of four scenes, alternately stop and forward, and four scenes without labels."""
    names = [{"actions": ["stop"], "reasons": ["traffic sign"]}, {"actions": ["forward"], "reasons": ["road is clear"]}]
    rows = [
        {"id": f"{i}-{j}", "frames": [f"{i}_{j}.jpg"], "recording": str(i), **names[i % 2]}
        for i in range(10)
        for j in range(4)
    ]
    return write(tmp_path / "scenes.jsonl", *rows, *({"frames": [f"u{i}.jpg"]} for i in range(4)))


def test_scenes_without_splits_are_split_by_recording(drives):
    assert "no scene names its split" in read_source(drives).warnings[0]
    data = BDDOIADataModule(Source("auto", str(drives)))
    data.setup()
    # Of 40 labelled scenes 8 test; of the other 32 up to ceil(3.2) = 4 validate; the unlabelled ones train.
    assert {split: len(scenes) for split, scenes in data.scenes.items()} == {"train": 32, "val": 4, "test": 8}
    places = {}
    for split, scenes in data.scenes.items():
        for scene in scenes:
            places.setdefault(scene.recording or scene.id, set()).add(split)
    assert all(len(splits) == 1 for splits in places.values())
    assert {scene.id for scene in data.scenes["train"] if scene.actions is None} == {"u0", "u1", "u2", "u3"}
    other = BDDOIADataModule(Source("jsonl", str(drives)), seed=1)
    other.setup()
    assert other.scenes["test"] != data.scenes["test"]


def test_budget_subset_and_prediction_are_as_of_other_sources(drives):
    data = BDDOIADataModule(Source("jsonl", str(drives)), Split(budget=6, budget_val=2, rest="unlabelled"))
    data.setup()
    assert sum(scene.actions is not None for scene in data.scenes["train"]) == 4
    assert (len(data.scenes["val"]), len(data.scenes["train"])) == (2, 30)
    assert sum(map(len, data.stage_ledger("ActionSFT").values())) == 32
    grouped = BDDOIADataModule(Source("jsonl", str(drives)), Split(subset="grouped"))
    grouped.setup()
    drive = {split: {scene.recording for scene in scenes} for split, scenes in grouped.scenes.items()}
    assert sum(map(len, drive.values())) == 10
    assert sum(len(batch.ids) for batch in grouped.predict_dataloader()) == 44


def test_a_missing_validation_split_is_carved_from_labelled_scenes(tmp_path):
    rows = [{"frames": [f"{i}.jpg"], "split": "train", **(STOP if i % 2 else {})} for i in range(20)]
    data = BDDOIADataModule(Source("auto", str(write(tmp_path / "scenes.jsonl", *rows))))
    data.setup()
    (val,) = data.scenes["val"]
    assert val.actions == (0, 1, 0, 0)
    assert val.reasons == tuple(flags(8))
    assert len(data.scenes["train"]) == 19


def test_scenes_without_labels_are_trained_on_as_frames_are(tmp_path):
    path = write(tmp_path / "scenes.jsonl", *({"frames": [f"{i}.jpg"]} for i in range(20)))
    data = BDDOIADataModule(Source("auto", str(path)))
    data.setup()
    assert {split: len(scenes) for split, scenes in data.scenes.items()} == {"train": 18, "val": 2, "test": 0}
