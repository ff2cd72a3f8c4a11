import json
from pathlib import Path

import pytest
from layouts import GO, GREEN, RED, STOP, gt, lastframe, picture

from lvad.data.layouts import detect_layout, read_source
from lvad.data.source import Source
from lvad.errors import DataError
from lvad.taxonomy import BDD_OIA


def names(root: Path, num_frames: int = 2, images: Path | None = None) -> list[str]:
    (scene,) = read_source(root, num_frames=num_frames, images=images).require().scenes
    return [frame.relative_to(images or root / "images").as_posix() for frame in scene.frames]


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return gt(tmp_path, "val", {"ab-cd": (GO, GREEN)}, pictures=False)


def test_labels_and_splits(tmp_path: Path) -> None:
    gt(tmp_path, "train", {"a": (GO, GREEN), "b": (STOP, RED)})
    gt(tmp_path, "test", {"c": ([0, 0, 0, 0], [0] * 21)})
    assert detect_layout(tmp_path) == "gt_4a_21r"
    reading = read_source(tmp_path).require()
    assert [(s.id, s.split, list(s.actions or ())) for s in reading.scenes] == [
        ("a", "train", GO),
        ("b", "train", STOP),
        ("c", "test", [0, 0, 0, 0]),
    ]
    assert [list(s.reasons or ()) for s in reading.scenes] == [GREEN, RED, [0] * 21]
    assert reading.warnings == ["no val split"]


def test_one_picture(one: Path) -> None:
    picture(one / "images" / "ab-cd.jpg")
    assert names(one) == ["ab-cd.jpg"]


def test_numbered_pictures_in_order_of_number(one: Path) -> None:
    for n in (0, 2, 10):
        picture(one / "images" / f"ab-cd_{n}.png")
    assert names(one) == ["ab-cd_2.png", "ab-cd_10.png"]


def test_a_folder_of_frames_in_natural_order(one: Path) -> None:
    for n in (1, 9, 10):
        picture(one / "images" / "ab-cd" / f"frame{n}.JPG")
    assert names(one, 3) == ["ab-cd/frame1.JPG", "ab-cd/frame9.JPG", "ab-cd/frame10.JPG"]


@pytest.mark.parametrize("folder", ["validate", "val", "train"])
def test_split_folders(one: Path, folder: str) -> None:
    picture(one / "images" / folder / "ab-cd.jpg")
    assert names(one) == [f"{folder}/ab-cd.jpg"]


def test_its_own_split_comes_first(one: Path) -> None:
    picture(one / "images" / "train" / "ab-cd.jpg")
    picture(one / "images" / "validate" / "ab-cd.jpg")
    assert names(one) == ["validate/ab-cd.jpg"]


def test_pictures_elsewhere_and_through_a_link(one: Path, tmp_path: Path) -> None:
    elsewhere = picture(tmp_path / "other" / "real" / "ab-cd.jpg").parent
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "val").symlink_to(elsewhere)
    (tmp_path / "images" / "loop").symlink_to(tmp_path / "images")
    assert names(one) == ["val/ab-cd.jpg"]
    assert names(one, images=elsewhere) == ["ab-cd.jpg"]


def test_labels_without_pictures(one: Path) -> None:
    assert read_source(one).scenes[0].frames == ()
    assert not read_source(one).has_images
    with pytest.raises(DataError, match="give their folder as images="):
        Source("gt_4a_21r", str(one)).read(BDD_OIA)


def test_a_missing_picture(one: Path) -> None:
    picture(one / "images" / "other.jpg")
    with pytest.raises(DataError, match=r"gt_4a_21r_val.json, id 'ab-cd': no image in .*images"):
        read_source(one).require()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not usable JSON"),
        ("[]", "top level is a list"),
        ('{"a": 1}', "id 'a': expected an object"),
        ('{"a": {"actions": [0,0,0,0]}}', "id 'a': reason must be a list of 21 entries, got NoneType"),
        (json.dumps({"a": {"actions": [0] * 5, "reason": RED}}), "actions must be a list of 4 entries, got 5"),
        (json.dumps({"a": {"actions": [0, 0, 0, -1], "reason": RED}}), "only 0 and 1, got -1"),
        (json.dumps({"../a": {"actions": GO, "reason": RED}}), "leads out of its folder"),
        (json.dumps({"": {"actions": GO, "reason": RED}}), "must be a printable name"),
        ('{"a": {}, "a": {}}', "duplicate id 'a'"),
    ],
)
def test_faults_name_file_and_row(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "gt_4a_21r_train.json").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_source(tmp_path).require()
    assert "gt_4a_21r_train.json" in str(caught.value)


def test_a_root_of_no_format_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of the known formats \(looked for .*25k.*, gt_4a_21r_.*pictures"):
        read_source(tmp_path).require()
    with pytest.raises(DataError, match="does not exist"):
        read_source(tmp_path / "nowhere").require()
    with pytest.raises(DataError, match="holds none of gt_4a_21r"):
        read_source(tmp_path, "gt_4a_21r").require()


def test_a_root_of_both_formats_wants_a_choice(tmp_path: Path) -> None:
    gt(tmp_path, "train", {"a": (GO, GREEN)})
    lastframe(tmp_path, "train", [("b.jpg", GO, GREEN)])
    with pytest.raises(DataError, match="lastframe and gt_4a_21r; name one"):
        read_source(tmp_path).require()
    assert [scene.id for scene in read_source(tmp_path, "gt_4a_21r").require().scenes] == ["a"]


def test_an_id_in_two_splits_is_a_warning(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        gt(tmp_path, split, {"a": (GO, GREEN)})
    assert read_source(tmp_path).require().warnings == ["1 ids are in more than one split, first 'a'"]
