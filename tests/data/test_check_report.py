import json
from pathlib import Path

import pytest
from layouts import GO, GREEN, RED, STOP, flags, gt, lastframe, picture

from lvad.data.check import check_source, main_check


def test_counts_of_a_clean_set(tmp_path: Path) -> None:
    gt(tmp_path, "train", {"a": (GO, GREEN), "b": (STOP, RED)})
    gt(tmp_path, "test", {"c": (STOP, RED)})
    report = check_source(tmp_path)
    assert report.splits == {"train": 2, "test": 1}
    assert report.actions["train"] == {"forward": 1, "stop": 1, "left": 0, "right": 0}
    assert report.reasons["test"]["s_traffic_light"] == 1
    assert sum(report.reasons["train"].values()) == 2
    assert report.warnings == ["no val split"]
    assert (report.errors, report.exit_code, report.images) == ([], 0, "3 of 3 decoded")


def test_contradictions_are_warnings(tmp_path: Path) -> None:
    rows = {
        "a": ([1, 1, 0, 0], flags(1, 2, 3, 7)),
        "b": ([0, 0, 0, 0], flags()),
        "c": ([0, 0, 1, 0], flags(15)),
        "d": ([0, 1, 0, 1], flags(7, 13)),
    }
    gt(tmp_path, "train", rows)
    report = check_source(tmp_path)
    assert report.exit_code == 0
    assert set(report.warnings[2:]) == {
        "1 scenes: no action",
        "1 scenes: no reason",
        "1 scenes: forward and stop",
        "2 scenes: neither forward nor stop",
        "1 scenes: light green and not green",
        "1 scenes: road clear and an obstacle",
        "1 scenes: left without a reason for it",
        "1 scenes: left with a reason against it",
    }


def test_recordings_in_two_splits_are_a_warning(tmp_path: Path) -> None:
    gt(tmp_path, "train", {"0000000a-00000001": (GO, GREEN), "0000000b-00000001": (GO, GREEN)})
    gt(tmp_path, "test", {"0000000a-00000002": (GO, GREEN)})
    assert "1 of 2 recordings are in more than one split" in check_source(tmp_path).warnings


def test_all_errors_are_collected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"{i:02d}.jpg", STOP, RED) for i in range(30)]
    rows[5] = ("05.jpg", [0, 1, 0, 0, 1], RED)
    lastframe(tmp_path, "train", rows)
    for i in range(10, 30):
        (tmp_path / "data" / f"{i}.jpg").unlink()
    (tmp_path / "data" / "00.jpg").write_bytes((tmp_path / "data" / "01.jpg").read_bytes()[:200])
    (tmp_path / "data" / "02.jpg").write_bytes(b"")
    path = tmp_path / "train_25k_images_reasons.json"
    reasons = json.loads(path.read_text())
    reasons[2]["reason"][0] = 9
    path.write_text(json.dumps(reasons))
    assert main_check(str(tmp_path)) == 1
    out = capsys.readouterr().out
    # 20 missing, 2 undecodable, 1 malformed.
    assert "23 errors" in out
    assert "error: 3 more, 23 in all" in out
    assert "dropped: 1 (confuse)" in out
    report = check_source(tmp_path)
    assert len(report.errors) == 23
    for name in ("29.jpg is missing", "00.jpg: image cannot be decoded", "02.jpg: image cannot", "row 2: reason"):
        assert any(name in error for error in report.errors), name
    assert len(check_source(tmp_path, decode=False).errors) == 21
    assert report.splits == {"train": 8}


def test_frames_of_two_sizes(tmp_path: Path) -> None:
    for name, width in (("a_0", 8), ("a_1", 16)):
        picture(tmp_path / "images" / f"{name}.jpg", (width, 8))
    gt(tmp_path, "train", {"a": (GO, GREEN)}, pictures=False)
    (error,) = check_source(tmp_path).errors
    assert "scene 'a': frames differ in size" in error
    assert "a_0.jpg (8, 8)" in error
    assert check_source(tmp_path, num_frames=1).errors == []


def test_labels_alone_are_counted(tmp_path: Path) -> None:
    gt(tmp_path, "train", {"a": (GO, GREEN)}, pictures=False)
    report = check_source(tmp_path)
    assert (report.splits, report.images, report.exit_code) == ({"train": 1}, "not checked", 0)
    assert any("images not checked" in warning for warning in report.warnings)
    assert "nowhere: does not exist" in check_source(tmp_path, images=tmp_path / "nowhere").errors[0]


def test_frames_and_unusable_roots(tmp_path: Path) -> None:
    assert "none of the known formats" in check_source(tmp_path).errors[0]
    assert check_source(tmp_path / "nowhere").exit_code == 1
    for i in range(3):
        picture(tmp_path / f"{i}.png")
    report = check_source(tmp_path)
    assert (report.format, report.splits, report.actions) == ("frames", {"unsplit": 2}, {})
    assert check_source(tmp_path, subset="single").exit_code == 1


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gt(tmp_path, "train", {"a": (GO, GREEN)})
    assert main_check(str(tmp_path), json=True) == 0
    content = json.loads(capsys.readouterr().out)
    assert {"splits", "actions", "reasons", "dropped", "errors", "warnings"} <= content.keys()
    assert content["splits"] == {"train": 1}
