import json
from pathlib import Path

import pytest
from layouts import FACTS, GO, GREEN, RED, STOP, flags, lastframe, picture

from lvad.data.layouts import detect_layout, read_source
from lvad.data.reading import DroppedRow
from lvad.data.source import Source
from lvad.errors import DataError
from lvad.taxonomy import BDD_OIA

ROWS = [("a.jpg", GO, GREEN), ("b.jpg", STOP, RED), ("c.jpg", [0, 0, 1, 1, 0], flags(9, 12))]


def test_rows_are_joined_by_id_and_by_file_name(tmp_path: Path) -> None:
    lastframe(tmp_path, "train", ROWS)
    assert detect_layout(tmp_path) == "lastframe"
    reading = read_source(tmp_path).require()
    assert [scene.id for scene in reading.scenes] == ["a", "b", "c"]
    assert [list(scene.actions or ()) for scene in reading.scenes] == [GO, STOP, [0, 0, 1, 1]]
    assert [list(scene.reasons or ()) for scene in reading.scenes] == [GREEN, RED, flags(9, 12)]
    assert reading.scenes[0].frames == (tmp_path / "data" / "a.jpg",)
    assert {scene.split for scene in reading.scenes} == {"train"}
    assert reading.warnings == ["no val split", "no test split"]


def test_confused_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    lastframe(tmp_path, "val", [*ROWS, ("d.jpg", [1, 0, 0, 0, 1], GREEN)])
    (tmp_path / "data" / "d.jpg").unlink()
    reading = read_source(tmp_path).require()
    assert reading.drops == [DroppedRow("d", "val", "confuse")]
    assert reading.dropped == {"confuse": 1}
    assert len(reading.scenes) == 3


def test_siblings_are_frames_oldest_first(tmp_path: Path) -> None:
    lastframe(tmp_path, "train", [("x_10.jpg", GO, GREEN)])
    for n in (2, 8, 9, 11):
        picture(tmp_path / "data" / f"x_{n}.jpg")
    names = [frame.name for frame in read_source(tmp_path, num_frames=3).require().scenes[0].frames]
    assert names == ["x_8.jpg", "x_9.jpg", "x_10.jpg"]
    assert len(read_source(tmp_path, num_frames=1).require().scenes[0].frames) == 1
    assert len(read_source(tmp_path, num_frames=9).require().scenes[0].frames) == 4


def test_a_sibling_with_its_own_row_is_another_clip(tmp_path: Path) -> None:
    lastframe(tmp_path, "train", [("x_1.jpg", GO, GREEN)])
    lastframe(tmp_path, "test", [("x_3.jpg", STOP, RED)])
    picture(tmp_path / "data" / "x_2.jpg")
    scenes = {scene.id: scene for scene in read_source(tmp_path, num_frames=4).require().scenes}
    assert [frame.name for frame in scenes["x_3"].frames] == ["x_2.jpg", "x_3.jpg"]
    assert [frame.name for frame in scenes["x_1"].frames] == ["x_1.jpg"]


def test_captions_and_facts_are_joined_and_name_the_scene(tmp_path: Path) -> None:
    lastframe(tmp_path, "train", [("x_1.jpg", GO, GREEN), ("y_1.jpg", STOP, RED)])
    row = {"id": "x", "captions": ["A green light."], "facts": FACTS | {"light": "green"}}
    (tmp_path / "train_scenes.jsonl").write_text(json.dumps(row) + "\n")
    first, second = read_source(tmp_path).require().scenes
    assert (first.id, first.captions, first.facts) == ("x", ("A green light.",), FACTS | {"light": "green"})
    assert (second.id, second.captions, second.facts) == ("y_1", (), None)


def test_pictures_elsewhere(tmp_path: Path) -> None:
    lastframe(tmp_path / "labels", "train", ROWS, pictures=False)
    for name, _, _ in ROWS:
        picture(tmp_path / "pictures" / name)
    with pytest.raises(DataError, match="no pictures beside the label files"):
        Source("lastframe", str(tmp_path / "labels")).read(BDD_OIA)
    assert len(read_source(tmp_path / "labels", images=tmp_path / "pictures").require().scenes) == 3
    with pytest.raises(DataError, match="nowhere: does not exist"):
        read_source(tmp_path / "labels", images=tmp_path / "nowhere").require()


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


ACTIONS, REASONS = "train_25k_images_actions.json", "train_25k_images_reasons.json"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (ACTIONS, lambda c: c["annotations"][0].update(category=[0, 1]), r"annotations\[0\]: category must be a"),
        (ACTIONS, lambda c: c["annotations"][0].update(category=[0, 1, 2, 0]), "only 0 and 1, got 2"),
        (ACTIONS, lambda c: c["annotations"][0].update(category=[0, 1, True, 0]), "only 0 and 1, got True"),
        (ACTIONS, lambda c: c["annotations"][0].update(category="stop"), "got str"),
        (ACTIONS, lambda c: c["annotations"][0].pop("id"), r"annotations\[0\]: expected an object with an int"),
        (ACTIONS, lambda c: c["annotations"][0].update(id=1), "no annotation has id"),
        (ACTIONS, lambda c: c["annotations"][0].update(c["annotations"][1]), "duplicate id"),
        (ACTIONS, lambda c: c["annotations"].pop(), "3 images but 2 annotations"),
        (ACTIONS, lambda c: c["images"][1].update(c["images"][0]), r"images\[1\]: duplicate id 100"),
        (ACTIONS, lambda c: c["images"][1].update(file_name="../b.jpg"), "leads out of its folder"),
        (ACTIONS, lambda c: c["images"][1].update(file_name="/etc/passwd"), "leads out of its folder"),
        (ACTIONS, lambda c: c["images"][1].update(file_name="C:\\b.jpg"), "leads out of its folder"),
        (ACTIONS, lambda c: c["images"][1].update(file_name="./b.jpg"), "write it as 'b.jpg'"),
        (ACTIONS, lambda c: c["images"][1].update(file_name="b\0.jpg"), "must be a printable name"),
        (ACTIONS, lambda c: c["images"][1].update(file_name="e.jpg"), "'e.jpg' has no row in train_25k_images_rea"),
        (ACTIONS, lambda c: c.pop("images"), "'images' must be a list"),
        (REASONS, lambda c: c[0].update(file_name="e.jpg"), "has no row in train_25k_images_reasons"),
        (REASONS, lambda c: c.append({"file_name": "e.jpg", "reason": RED}), "1 rows have no image in"),
        (REASONS, lambda c: c.append(c[0]), "row 3: duplicate id"),
        (REASONS, lambda c: c[0].update(reason=RED[:20]), "row 0: reason must be a list of 21 entries, got 20"),
        (REASONS, lambda c: c[0].update(reason=[0.5, *RED[1:]]), "only 0 and 1, got 0.5"),
        (REASONS, lambda c: c.append(7), "row 3: expected an object"),
    ],
)
def test_faulty_rows_name_file_and_row(tmp_path: Path, file: str, change, message: str) -> None:
    lastframe(tmp_path, "train", ROWS)
    edit(tmp_path / file, change)
    with pytest.raises(DataError, match=message) as caught:
        read_source(tmp_path).require()
    assert str(tmp_path) in str(caught.value)
    assert ";" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not usable JSON"),
        ('{"images": [', "not usable JSON"),
        ("[]", "top level is a list, expected a dict"),
        ("[" * 100_000, "not usable JSON"),
        ('{"images": [], "images": []}', "duplicate id 'images'"),
        ("\udcff", "cannot be read"),
    ],
)
def test_corrupt_files(tmp_path: Path, content: str, message: str) -> None:
    lastframe(tmp_path, "train", ROWS)
    (tmp_path / ACTIONS).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        read_source(tmp_path).require()


def test_a_missing_half_is_an_error(tmp_path: Path) -> None:
    lastframe(tmp_path, "train", ROWS)
    (tmp_path / REASONS).unlink()
    with pytest.raises(DataError, match=r"reasons\.json: cannot be read"):
        read_source(tmp_path).require()


def test_missing_pictures_are_all_collected(tmp_path: Path) -> None:
    lastframe(tmp_path, "train", ROWS)
    (tmp_path / "data" / "a.jpg").unlink()
    (tmp_path / "data" / "b.jpg").unlink()
    reading = read_source(tmp_path)
    assert [("a.jpg" in str(e), "b.jpg" in str(e)) for e in reading.errors] == [(True, False), (False, True)]
    assert [scene.id for scene in reading.scenes] == ["c"]
    with pytest.raises(DataError, match=r"a\.jpg is missing.*1 more"):
        read_source(tmp_path).require()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a"', "line 1: not usable JSON"),
        ('{"id": "a", "captions": "x", "facts": {}}', "line 1: expected"),
        ('{"id": "a", "captions": [1], "facts": {}}', "line 1: expected"),
        ('{"id": "a", "captions": [], "facts": {"x": 1}}', "line 1: facts must be an object of texts"),
        ('{"id": "a", "captions": [], "facts": {"x": "1"}}', "line 1: unknown attribute of facts 'x'"),
        (json.dumps({"id": "a", "captions": [], "facts": FACTS | {"light": "r"}}), "unknown value of 'light' .* 'r'"),
        ('{"id": "a", "captions": []}\n{"id": "a", "captions": []}', "line 2: duplicate"),
    ],
)
def test_faulty_scene_lines(tmp_path: Path, line: str, message: str) -> None:
    lastframe(tmp_path, "train", ROWS)
    (tmp_path / "train_scenes.jsonl").write_text(line)
    with pytest.raises(DataError, match=message):
        read_source(tmp_path).require()


def test_facts_with_a_missing_attribute_name_it_and_the_remedy(tmp_path: Path) -> None:
    """A caption that speaks of the light would otherwise end a run in a KeyError."""
    lastframe(tmp_path, "train", [("x_1.jpg", GO, GREEN)])
    facts = {attribute: value for attribute, value in FACTS.items() if attribute not in ("light", "sign")}
    file = tmp_path / "train_scenes.jsonl"
    file.write_text(json.dumps({"id": "x", "captions": ["A green light."], "facts": facts}))
    said = f"{file}, line 1: facts of scene 'x' lack 'light', 'sign'; name every attribute .*, or leave facts out"
    with pytest.raises(DataError, match=said):
        read_source(tmp_path).require()
    file.write_text(json.dumps({"id": "x", "captions": ["A green light."]}))
    (scene,) = read_source(tmp_path).require().scenes
    assert (scene.id, scene.captions, scene.facts) == ("x", ("A green light.",), None)
