"""What is converted reads as the same scenes, wherever the file lies."""

import json
import os

import pytest
from layouts import GO, GREEN, RED, STOP, gt, lastframe

from lvad.cli import main
from lvad.data.convert import convert_to_jsonl
from lvad.data.layouts import read_source
from lvad.errors import DataError


def as_read(scenes):
    """The scenes with their frames by real path."""
    return [scene._replace(frames=tuple(frame.resolve() for frame in scene.frames)) for scene in scenes]


def test_drawn_scenes_are_the_same_ones(drawn_root, tmp_path):
    out = tmp_path / "deep/er/mine.jsonl"
    convert_to_jsonl(drawn_root, out)
    scenes = read_source(drawn_root).require().scenes
    assert as_read(read_source(out).require().scenes) == as_read(scenes)
    assert len(scenes) == 32
    assert all(scene.facts and scene.captions for scene in read_source(out).require().scenes)
    first = json.loads(out.read_text().splitlines()[0])
    assert first["frames"][0] == os.path.relpath(scenes[0].frames[0], out.parent)
    again = tmp_path / "again.jsonl"
    convert_to_jsonl(out, again)
    assert as_read(read_source(again).require().scenes) == as_read(scenes)


def test_both_layouts_and_what_is_left_out(tmp_path, capsys):
    rows = [("a_1.jpg", STOP, RED), ("b.jpg", [*GO, 0], GREEN), ("c.jpg", [*GO, 1], GREEN)]
    for root in (lastframe(tmp_path / "one", "val", rows), gt(tmp_path / "two", "test", {"a": (GO, GREEN)})):
        out = root / "scenes.jsonl"
        assert main(["data", "convert", str(root), str(out)]) == 0
        layout = "lastframe" if root.name == "one" else "gt_4a_21r"
        assert as_read(read_source(out).require().scenes) == as_read(read_source(root, layout).require().scenes)
    said = capsys.readouterr().out
    assert said.startswith(f"2 scenes: {tmp_path / 'one/scenes.jsonl'}; 1 left out (confuse)\n")
    line = json.loads(out.read_text())
    assert line == {
        "id": "a", "frames": ["images/a.jpg"], "split": "test", "actions": ["forward"], "reasons": ["f_traffic_light"],
    }  # fmt: skip


def test_a_link_on_the_way_changes_nothing(tmp_path):
    root = gt(tmp_path / "far/away/set", "test", {"a": (GO, GREEN)})
    (tmp_path / "far/away/link").mkdir()
    (tmp_path / "here").symlink_to(tmp_path / "far/away/link")
    convert_to_jsonl(root, tmp_path / "here/mine.jsonl")
    first, second = (read_source(path).require().scenes for path in (tmp_path / "here/mine.jsonl", root))
    assert as_read(first) == as_read(second)


def test_what_cannot_be_converted_is_named(tmp_path):
    root = gt(tmp_path / "set", "test", {"a": (GO, GREEN)})
    with pytest.raises(DataError, match=r"mine.json: is no .jsonl file"):
        convert_to_jsonl(root, tmp_path / "mine.json")
    (tmp_path / "mine.jsonl").touch()
    with pytest.raises(DataError, match=r"mine.jsonl: exists already; name another file"):
        convert_to_jsonl(root, tmp_path / "mine.jsonl")
    with pytest.raises(DataError, match="images: has no labels to convert"):
        convert_to_jsonl(root / "images", tmp_path / "other.jsonl")
    assert not (tmp_path / "other.jsonl").exists()


@pytest.mark.slow
def test_the_release_is_the_same(shared_data, tmp_path):
    reading = convert_to_jsonl(shared_data / "bddoia_annotations", tmp_path / "mine.jsonl")
    assert len(reading.scenes) == 11299
    assert read_source(tmp_path / "mine.jsonl").require().scenes == reading.scenes
