"""BDD-X's table becomes lines of JSON that read as scenes."""

import csv
import json
from typing import Any

import pytest
from layouts import write_video

from lvad.cli import main
from lvad.data.bddx import CELLS, NUM_SPANS, VIDEO, sentence
from lvad.data.convert import convert_to_jsonl
from lvad.data.layouts import read_source
from lvad.data.split_algorithms import split_scenes
from lvad.errors import DataError

ONE, TWO = "06d501fd-a9ffc960", "00a0f008-3c67908e"
URL = "https://host/train/{}.mov"
COLUMNS = [VIDEO, *(f"Answer.{i}{cell}" for i in range(1, NUM_SPANS + 1) for cell in CELLS)]
STOPS = ("0", "2", "The car stops.", "Because the light  is red.")
GOES = ("2", "3", "The car goes on", "because the light turns green")


def write(root, rows, lists=None, videos=(ONE, TWO)):
    """The release's own columns, in its order; videos of 2.5 s."""
    root.mkdir(exist_ok=True)
    with (root / "BDD-X-Annotations_v1.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for name, *spans in rows:
            cells = [cell for span in spans for cell in span]
            writer.writerow([URL.format(name) if name else "", *cells, *[""] * (len(COLUMNS) - 1 - len(cells))])
    for split, names in (lists or {}).items():
        (root / f"{split}.txt").write_text("".join(f"{i}_{name}\n" for i, name in enumerate(names)))
    for name in videos:
        (root / "videos/train").mkdir(parents=True, exist_ok=True)
        write_video(root / f"videos/train/{name}.mov", 25)
    return root / "BDD-X-Annotations_v1.csv"


def test_action_and_justification_are_one_sentence():
    assert sentence(*STOPS[2:]) == "The car stops because the light is red."
    assert sentence("The car  waits ,", "US traffic rules. ") == "The car waits US traffic rules."


def test_a_span_is_a_line_with_its_split(tmp_path, capsys):
    table = write(tmp_path / "bddx", [(ONE, STOPS, GOES), (TWO, STOPS)], {"train": [ONE], "test": [TWO]})
    assert main(["data", "convert", str(table), str(tmp_path / "mine/scenes.jsonl")]) == 0
    assert capsys.readouterr().out == f"3 scenes: {tmp_path / 'mine/scenes.jsonl'}\n"
    rows = [json.loads(line) for line in (tmp_path / "mine/scenes.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "id": f"{ONE}/1", "video": f"../bddx/videos/train/{ONE}.mov", "start_s": 0, "end_s": 2, "split": "train",
        "text": "The car stops because the light is red.",
    }  # fmt: skip
    # The third second ends half a second behind the video, as whole seconds do.
    assert [(row["id"], row["split"], row["end_s"]) for row in rows[1:]] == [
        (f"{ONE}/2", "train", 2.5),
        (f"{TWO}/1", "test", 2),
    ]
    scenes: list[Any] = read_source(tmp_path / "mine").require().scenes
    assert [scene.recording for scene in scenes] == ["06d501fd", "06d501fd", "00a0f008"]
    assert [[frame.time_s for frame in scene.frames] for scene in scenes] == [[1, 2], [2.5], [1, 2]]


def test_what_is_left_out_is_counted(tmp_path, capsys):
    rows = [
        (ONE, STOPS, ("2", "", "The car waits", ""), ("x", "1", "a", "b"), ("2", "1", "a", "b"), ("0", "9", "a", "b")),
        (TWO, STOPS), ("0000000a-00000001", STOPS, GOES), ("", STOPS), ("",),
    ]  # fmt: skip
    table = write(tmp_path / "bddx", rows, {"train": [ONE, "0000000a-00000001"]})
    assert main(["data", "convert", str(table), str(tmp_path / "out.jsonl")]) == 0
    assert capsys.readouterr().out.split("; ") == [
        f"1 scenes: {tmp_path / 'out.jsonl'}",
        "1 left out (empty cell)",
        "1 left out (time is no number)",
        "1 left out (reversed or endless)",
        "1 left out (outside the video)",
        "1 left out (in no list of a split)",
        "2 left out (video missing)",
        "1 left out (no video named)\n",
    ]


def test_without_lists_drives_are_split_whole_and_texts_are_the_labels(tmp_path):
    names = [f"{i:08x}-0000000{j}" for i in range(10) for j in range(2)]
    table = write(tmp_path / "bddx", [(name, STOPS, GOES) for name in names], videos=names)
    splits = split_scenes(convert_to_jsonl(table, tmp_path / "out.jsonl"), "all", seed=0)
    # 40 spans of 10 drives: 8 test; of the other 32 up to ceil(3.2) = 4 validate.
    assert {split: len(scenes) for split, scenes in splits.items()} == {"train": 28, "val": 4, "test": 8}
    drives = [{scene.recording for scene in scenes} for scenes in splits.values()]
    assert sum(map(len, drives)) == 10


def test_what_cannot_be_converted_is_named(tmp_path):
    table = write(tmp_path / "bddx", [(ONE, STOPS)], {"train": [ONE], "val": [ONE]})
    with pytest.raises(DataError, match=rf"val.txt: video '{ONE}' is in the list of train too"):
        convert_to_jsonl(table, tmp_path / "out.jsonl")
    (tmp_path / "bddx/val.txt").unlink()
    with pytest.raises(DataError, match=r"none of its spans can be used \(1 video missing\); put .*far"):
        convert_to_jsonl(table, tmp_path / "out.jsonl", images=tmp_path / "far")
    (tmp_path / f"bddx/videos/train/{ONE}.mov").write_bytes(b"no video")
    with pytest.raises(DataError, match=rf"{ONE}.mov: video cannot be decoded"):
        convert_to_jsonl(table, tmp_path / "out.jsonl")
    table.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"has no column 'Answer.1action', .*'Input.Video'; take BDD-X-Annotations_v1"):
        convert_to_jsonl(table, tmp_path / "out.jsonl")
    assert not list(tmp_path.glob("out.*"))
