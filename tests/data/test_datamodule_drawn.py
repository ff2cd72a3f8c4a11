"""Drawn scenes in the data module: drawn once, checked on a second look."""

from pathlib import Path

import pytest
from layouts import picture
from test_datamodule import ready, sizes

from lvad.data.source import Source
from lvad.data.split import SceneCounts, Split
from lvad.data.synthetic_set import DEFAULT_COUNTS
from lvad.errors import DataError


def test_the_drawn_set(tmp_path: Path) -> None:
    root = str(tmp_path / "drawn")
    counts = SceneCounts(train=6, val=2, test=3)
    data = ready(Source(root=root), Split(num_scenes=counts))
    assert sizes(data) == {"train": 6, "val": 2, "test": 3}
    scene = data.scenes["train"][0]
    assert (len(scene.frames), scene.captions != (), scene.facts is not None) == (2, True, True)
    assert not scene.id.endswith("_1")
    batch = next(iter(data.train_dataloader()))
    assert {tuple(frames.shape) for frames in batch.frames} == {(2, 3, 128, 128)}
    # A second run finds the set; fewer scenes are a subset, whatever the seed; more are refused.
    again = ready(Source(root=root), Split(num_scenes=SceneCounts(train=4, val=2, test=3)), seed=5)
    assert {scene.id for scene in again.scenes["train"]} < {scene.id for scene in data.scenes["train"]}
    assert again.scenes["test"] == data.scenes["test"]
    with pytest.raises(
        DataError, match=r"holds 6 train scenes, num_scenes or num_drawn asks for 800; delete the folder"
    ):
        ready(Source(root=root))
    with pytest.raises(DataError, match="scenes have 2 frames, num_frames asks for 3"):
        ready(Source(root=root, num_frames=3), Split(num_scenes=counts))


def test_a_share_is_taken_of_the_usual_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, count in {"train": 16, "val": 4, "test": 4}.items():
        monkeypatch.setitem(DEFAULT_COUNTS, split, count)
    data = ready(Source(root=str(tmp_path / "drawn")), Split(num_scenes=SceneCounts(train=0.25, val=1.0)))
    assert sizes(data) == {"train": 4, "val": 4, "test": 4}
    assert sizes(ready(Source(root=str(tmp_path / "drawn")))) == {"train": 16, "val": 4, "test": 4}


def test_sets_of_two_drawing_seeds_share_no_scene(tmp_path: Path) -> None:
    counts = SceneCounts(train=6, val=1, test=1)
    sets = [ready(Source(root=str(tmp_path / str(s)), drawing_seed=s), Split(num_scenes=counts)) for s in (0, 42)]
    facts = [{tuple((scene.facts or {}).items()) for scene in data.scenes["train"]} for data in sets]
    assert not facts[0] & facts[1]
    with pytest.raises(DataError, match="drawn with seed 42, drawing_seed is 0; delete the folder"):
        ready(Source(root=str(tmp_path / "42")), Split(num_scenes=counts))


def test_a_folder_of_other_files_is_not_drawn_into(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match="holds none of"):
        ready(Source(root=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_set_is_drawn_larger_than_what_is_used(tmp_path: Path) -> None:
    """The paper's first experiment draws many scenes, of which few have one action and one reason."""
    drawn = SceneCounts(train=12, val=0, test=0)
    data = ready(Source(root=str(tmp_path / "drawn"), num_drawn=drawn), Split(num_scenes=SceneCounts(train=0.5)))
    assert data.reading is not None
    assert len(data.reading.scenes) == 12
    assert sizes(data) == {"train": 4, "val": 4, "test": 0}  # 4 held back, half of the others
    with pytest.raises(DataError, match=r"holds 12 train scenes, num_scenes or num_drawn asks for 13"):
        ready(Source(root=str(tmp_path / "drawn"), num_drawn=SceneCounts(train=13, val=0, test=0)))
