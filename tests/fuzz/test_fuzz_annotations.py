"""Label files: whatever they hold, a reader returns whole scenes and an account of the rest."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile import break_json, cases, one_line, refused
from layouts import FACTS
from PIL import Image

from lvad.cli import main
from lvad.data.layouts import Layout, read_source
from lvad.data.ledger import read_ledger
from lvad.data.reading import read_json
from lvad.data.synthetic import write_synthetic
from lvad.errors import DataError
from lvad.facts import ATTRIBUTES

ACTIONS, REASONS = [[1, 0, 0, 0], [0, 1, 0, 0]], [[int(i == k) for i in range(21)] for k in (2, 7)]
NAMES = ("a_1.jpg", "s/b.jpg")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    for name in NAMES:
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(folder / "data" / name)
    return folder


def survives(root: Path, layout: Layout) -> None:
    """The reading holds nothing but whole scenes, whose frames lie in the folder, and errors of one line."""
    reading = read_source(root, layout)
    for error in reading.errors:
        one_line(error, root)
    for scene in reading.scenes:
        assert len(scene.actions or ()) == 4
        assert len(scene.reasons or ()) == 21
        assert set(scene.actions or ()) | set(scene.reasons or ()) <= {0, 1}
        assert all(frame.resolve().is_relative_to(root) for frame in scene.frames)
        "".join([scene.id, *scene.captions, *(scene.facts or {}), *(scene.facts or {}).values()]).encode()
        assert scene.facts is None or scene.facts.keys() == ATTRIBUTES.keys()
    with refused(DataError, root):
        reading.require()


@cases("lastframe labels")
def test_lastframe_labels(root: Path, rng: random.Random) -> None:
    actions = {
        "images": [{"id": 7 * i, "file_name": name} for i, name in enumerate(NAMES)],
        "annotations": [{"id": 7 * i, "category": [*labels, 0]} for i, labels in enumerate(ACTIONS)],
    }
    reasons = [{"file_name": name, "reason": labels} for name, labels in zip(NAMES, REASONS, strict=True)]
    files = {"actions": actions, "reasons": reasons}
    broken = rng.choice((["actions"], ["reasons"], ["actions", "reasons"]))
    for name, content in files.items():
        data = break_json(content, rng) if name in broken else json.dumps(content).encode()
        (root / f"train_25k_images_{name}.json").write_bytes(data)
    survives(root, "lastframe")


@cases("captions of a drawn set")
def test_captions_of_a_drawn_set(root: Path, rng: random.Random) -> None:
    (root / "train_25k_images_actions.json").write_text(
        json.dumps({"images": [{"id": 0, "file_name": NAMES[0]}], "annotations": [{"id": 0, "category": ACTIONS[0]}]})
    )
    (root / "train_25k_images_reasons.json").write_text(json.dumps([{"file_name": NAMES[0], "reason": REASONS[0]}]))
    line = {"id": "a", "captions": ["a car", "a bus"], "facts": FACTS}
    rows = [break_json(line, rng) for _ in range(rng.randrange(1, 3))]
    (root / "train_scenes.jsonl").write_bytes(b"\n".join([json.dumps(line | {"id": "b"}).encode(), *rows]))
    try:
        survives(root, "lastframe")
    finally:
        (root / "train_scenes.jsonl").unlink()


@pytest.mark.parametrize("place", ["id", "caption", "fact", "value"])
def test_half_a_surrogate_pair_is_no_text(tmp_path: Path, place: str) -> None:
    words = {name: "\ud800" if name == place else "x" for name in ("id", "caption", "fact", "value")}
    line = {"id": words["id"], "captions": [words["caption"]], "facts": {words["fact"]: words["value"]}}
    (tmp_path / "train_scenes.jsonl").write_text(json.dumps(line))
    (tmp_path / "train_25k_images_actions.json").write_text('{"images": [], "annotations": []}')
    (tmp_path / "train_25k_images_reasons.json").write_text("[]")
    (error,) = read_source(tmp_path, "lastframe").errors
    one_line(error, tmp_path / "train_scenes.jsonl", "line 1")


@cases("gt_4a_21r labels")
def test_gt_labels(root: Path, rng: random.Random) -> None:
    rows = {"a": {"actions": ACTIONS[0], "reason": REASONS[0]}, "s/b": {"actions": ACTIONS[1], "reason": REASONS[1]}}
    (root / "gt_4a_21r_train.json").write_bytes(break_json(rows, rng))
    survives(root, "gt_4a_21r")


@cases("ledger.json")
def test_ledgers(tmp_path: Path, rng: random.Random) -> None:
    ledger = {"CLIPReward train, labelled": ["a", "b"], "RLOOPolicy train, unlabelled": ["c"]}
    (tmp_path / "ledger.json").write_bytes(break_json(ledger, rng))
    with refused(DataError, tmp_path / "ledger.json"):
        for use, ids in read_ledger(tmp_path).items():
            assert isinstance(use, str)
            assert all(isinstance(name, str) for name in ids)


@cases("synthetic.json")
def test_recipes_of_drawn_sets(tmp_path: Path, rng: random.Random) -> None:
    recipe = {"format": 1, "seed": 0, "num_frames": 2, "size_px": 128, "counts": {"train": 1, "val": 1, "test": 1}}
    (tmp_path / "synthetic.json").write_bytes(break_json(recipe, rng))
    with refused((ValueError, FileExistsError), tmp_path):
        write_synthetic(tmp_path, 1, 1, 1, progress=False)


def test_what_is_no_drawn_set_is_not_drawn_over(tmp_path: Path, capsys) -> None:
    (tmp_path / "mine.txt").touch()
    assert main(["data", "draw", str(tmp_path)]) == 1
    assert f"lvad: error: {tmp_path} holds other files" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_loop(path: Path) -> None:
    path.symlink_to(path)


def an_endless_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_folder(path: Path) -> None:
    path.mkdir()


def a_hundred_gigabytes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100 * 2**30)


def nested_without_end(path: Path) -> None:
    path.write_bytes(b"[" * 100_000 + b" " * 50_000_000 + b"]" * 100_000)


NO_FILES = (a_pipe, a_loop, an_endless_device, a_folder, a_hundred_gigabytes, nested_without_end)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", NO_FILES)
def test_what_is_no_file_of_bearable_size_is_refused(make: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "train_25k_images_actions.json"
    make(path)
    with pytest.raises(DataError) as refusal:
        read_json(path, dict)
    one_line(refusal.value, path)
    (tmp_path / "train_25k_images_reasons.json").write_text("[]")
    (tmp_path / "data").mkdir()
    (error,) = read_source(tmp_path, "lastframe").errors
    one_line(error, path)
