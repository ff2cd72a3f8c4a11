"""Which pictures of a folder are a sequence: by their names alone."""

from pathlib import Path

import pytest
from layouts import picture

from lvad.data.frames import read_frames
from lvad.data.images import natural_key
from lvad.data.layouts import read_source
from lvad.data.sequences import find_sequences, split_series
from lvad.errors import DataError

HASHES = ["b0245632-00000000", "b0969f2a-02b66fc4", "b12992c7-ce2d75a0", "b1455b0a-f8c10efc", "b1926625-00000000"]


def series(stems):
    stems = sorted(stems, key=natural_key)
    return [[stems[i] for i in part] for part in split_series(stems)]


@pytest.mark.parametrize(
    "stems",
    [
        ["1", "2", "9", "10"],  # frames are missing
        ["frame_100", "frame_200"],
        ["f01710", "f01740", "f01770"],
        ["000_0001TP_008490", "001_0001TP_008520", "002_0001TP_008550", "003_0001TP_008580"],
        [f"CAM_FRONT__15331516035{n:05d}404" for n in (12, 62, 111, 160, 213, 262)],  # time stamps, a little uneven
        ["CAM_FRONT__1533151603512404", "CAM_FRONT__1533151604012404"],
        [f"1305031102.{n}" for n in (175304, 211214, 243211, 275326, 311267, 343233)],
        [f"{100 + 5 * i}_1280x720" for i in range(9)],
    ],
)
def test_names_that_count_up_are_one_series(stems):
    assert series(stems) == [stems]


@pytest.mark.parametrize(
    "stems",
    [
        HASHES,
        ["b0245632-00000000", "b1926625-00000000"],  # the same but for one number, which does not count
        ["a", "b", "c"],
        ["only_1"],
        ["1", "01", "001"],
        [f"{n:012d}" for n in (139, 285, 632, 724, 776, 785, 802, 872, 885, 1000, 1268, 1296, 1353, 1584)],  # of COCO
    ],
)
def test_other_names_are_none(stems):
    assert series(stems) == []


def test_cameras_of_one_folder_are_series_of_their_own():
    before = [f"cam{c}_{i:03d}" for c in range(2) for i in range(5)]
    assert series(before) == [before[:5], before[5:]]
    behind = [f"{i:03d}_cam{c}" for c in range(2) for i in range(5)]
    assert sorted(series(behind)) == sorted([behind[:5], behind[5:]])
    assert len(series([f"{i}_left" for i in range(3)] + [f"{i}_right" for i in range(3)])) == 2
    # The clock's seconds begin anew every minute, in steps that no camera has.
    clock = [f"12-{minute:02d}-{second:02d}" for minute in (29, 30) for second in range(0, 60, 10)]
    assert series(clock) == [clock[:6], clock[6:]]


def test_a_series_among_stills_counts_where_it_is_most_of_the_folder():
    assert series([*HASHES, "f_1", "f_2"]) == []
    assert series(["cover", "f_1", "f_2"]) == [["f_1", "f_2"]]


def test_unrelated_stills_are_a_scene_each_and_that_is_said(tmp_path: Path) -> None:
    for name in HASHES:
        picture(tmp_path / "stills" / f"{name}.png")
    for i in range(4):
        picture(tmp_path / "drive" / f"{i}.png")
    picture(tmp_path / "alone" / "street.png")
    reading = read_frames(tmp_path, num_frames=2, stride=2)
    assert [scene.id for scene in reading.scenes] == [
        "alone/street",
        "drive/1",
        "drive/3",
        *(f"stills/{n}" for n in sorted(HASHES, key=natural_key)),
    ]
    assert [len(scene.frames) for scene in reading.scenes] == [1, 2, 2, 1, 1, 1, 1, 1]
    (note,) = reading.warnings
    assert "5 pictures are unrelated stills, one frame a scene: their names do not count up" in note
    assert "first b0969f2a-02b66fc4.png and " in note
    assert read_frames(tmp_path, num_frames=1).warnings == []  # nothing to pair


def test_real_stills_and_sequences(shared_data: Path) -> None:
    stills = read_frames(shared_data / "images", num_frames=2)
    counted = [scene for scene in stills.scenes if scene.id.startswith("bddoia_demo")]  # snna_1 to snna_7
    assert len(counted) == 6
    assert {len(scene.frames) for scene in stills.scenes if scene not in counted} == {1}
    num_stills = len([*(shared_data / "images").glob("bdd100k*/*.jpg")])
    assert len(stills.scenes) == num_stills + len(counted)
    assert f"{num_stills} pictures are unrelated stills" in stills.warnings[0]
    sequences = read_frames(shared_data / "sequences", num_frames=2)
    assert ([len(scene.frames) for scene in sequences.scenes], sequences.warnings) == ([2] * 33, [])


def test_every_frame_can_end_a_scene(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / f"f{i}.png")
    scenes = read_frames(tmp_path, num_frames=3, from_first=True).scenes
    assert [[frame.stem for frame in scene.frames] for scene in scenes] == [
        ["f0"], ["f0", "f1"], ["f0", "f1", "f2"], ["f1", "f2", "f3"],
    ]  # fmt: skip


def test_formats_that_are_not_read_are_named(tmp_path: Path) -> None:
    for name in ("f1.png", "f2.png", "f3.gif", "f4.TIF", "notes.txt"):
        (tmp_path / name).write_bytes(b"") if name.endswith("txt") else picture(tmp_path / name)
    (tmp_path / "drive.ts").touch()
    (note,) = read_source(tmp_path).warnings
    assert note.startswith("3 files left out: .gif, .tif, .ts are not read, convert them; first ")
    (tmp_path / "gifs").mkdir()
    (tmp_path / "f3.gif").rename(tmp_path / "gifs/f3.gif")
    with pytest.raises(DataError, match=r"no pictures or videos .*; 1 files of other formats, first .*f3\.gif"):
        find_sequences(tmp_path / "gifs")


@pytest.mark.parametrize("layout", ["auto", "frames", "lastframe", "gt_4a_21r"])
def test_what_does_not_exist_is_said_to(tmp_path: Path, layout: str) -> None:
    with pytest.raises(DataError, match=r"no/such: does not exist"):
        read_source(tmp_path / "no/such", layout)
    with pytest.raises(DataError, match=r"no/such: does not exist"):
        read_source(tmp_path, layout, images=tmp_path / "no/such")
