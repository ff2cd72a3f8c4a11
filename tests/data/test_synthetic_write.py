import json

import pytest
from PIL import Image

import lvad.data.synthetic.write as writing
from lvad.data.synthetic import write_synthetic

COUNTS = {"train": 5, "val": 3, "test": 2}


def write(root, seed=0, num_workers=0, num_val=3):
    write_synthetic(root, 5, num_val, 2, seed, size_px=32, num_workers=num_workers, progress=False)


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def load(path):
    return json.loads(path.read_text())


def test_layout(tmp_path):
    root = tmp_path / "set"
    write(root)
    assert load(root / "synthetic.json") == {
        "version": 1,
        "seed": 0,
        "num_frames": 2,
        "size_px": 32,
        "counts": COUNTS,
    }
    ids = set()
    for split, count in COUNTS.items():
        actions = load(root / f"{split}_25k_images_actions.json")
        reasons = load(root / f"{split}_25k_images_reasons.json")
        scenes = [json.loads(line) for line in (root / f"{split}_scenes.jsonl").read_text().splitlines()]
        names = [image["file_name"] for image in actions["images"]]
        assert len(names) == len(actions["annotations"]) == len(reasons) == len(scenes) == count
        assert names == [f"{scene['id']}_1.jpg" for scene in scenes]
        assert sorted(names) == sorted(row["file_name"] for row in reasons)
        assert all(len(row["category"]) == 4 for row in actions["annotations"])
        assert all(len(row["reason"]) == 21 for row in reasons)
        assert all(scene["captions"] and scene["facts"] for scene in scenes)
        ids |= {scene["id"] for scene in scenes}
    assert len(ids) == sum(COUNTS.values())
    assert {path.name for path in (root / "data").iterdir()} == {f"{i}_{n}.jpg" for i in ids for n in (0, 1)}
    with Image.open(root / "data" / f"{min(ids)}_0.jpg") as image:
        assert image.size == (32, 32)


def test_reasons_are_in_another_order(tmp_path):
    write_synthetic(tmp_path / "set", 20, 0, 0, size_px=32, progress=False)
    names = [row["file_name"] for row in load(tmp_path / "set/train_25k_images_reasons.json")]
    assert names != sorted(names)


def test_same_bytes_whatever_the_workers(tmp_path):
    write(tmp_path / "alone")
    write(tmp_path / "helped", num_workers=1)
    assert files(tmp_path / "alone") == files(tmp_path / "helped")
    write(tmp_path / "other", seed=1)
    assert files(tmp_path / "alone") != files(tmp_path / "other")


def test_a_set_that_is_there_is_left_alone(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    write(root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    write(root)
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_another_recipe_is_refused(tmp_path):
    root = tmp_path / "set"
    write(root)
    with pytest.raises(
        FileExistsError, match=r"set holds a synthetic set of another recipe.*remove it or name another"
    ):
        write(root, num_val=4)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="other files"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_run_cut_short_leaves_no_half_set(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "_write_split", stop)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"num_val": -1}, {"num_frames": 0}, {"size_px": 0}, {"num_workers": -1}])
def test_wrong_numbers_are_named(tmp_path, wrong):
    arguments = {"num_train": 1, "num_val": 1, "num_test": 1, **wrong}
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        write_synthetic(tmp_path / "set", **arguments)
