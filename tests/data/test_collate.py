from pathlib import Path

import pytest
import torch
from layouts import RED, STOP, picture
from torch.utils.data import DataLoader

from lvad.data.collate import SceneDataset, collate, decode_scene
from lvad.errors import DataError
from lvad.types import UNLABELLED, Scene


def test_decode_order_and_layout(tmp_path: Path) -> None:
    red = picture(tmp_path / "0.png", (6, 4), "red")
    blue = picture(tmp_path / "1.png", (6, 4), "blue")
    frames = decode_scene(Scene("a", (red, blue), ""), num_frames=2)
    assert (frames.shape, frames.dtype) == ((2, 3, 4, 6), torch.uint8)
    assert frames.is_contiguous()
    assert frames[:, :, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert decode_scene(Scene("a", (red, blue), ""), num_frames=1)[0, :, 0, 0].tolist() == [0, 0, 255]
    assert decode_scene(Scene("a", (red,), ""), num_frames=5).shape == (1, 3, 4, 6)
    assert decode_scene(Scene("a", (red, blue), ""), 2, image_size_px=3).shape == (2, 3, 2, 3)


def test_frames_of_two_sizes_are_an_error_that_names_both(tmp_path: Path) -> None:
    small, large = picture(tmp_path / "0.png", (6, 4)), picture(tmp_path / "1.png", (12, 8))
    with pytest.raises(DataError, match=r"1\.png, scene 'a': is 12x8, but .*0\.png of the same scene 6x4"):
        decode_scene(Scene("a", (small, large), ""), num_frames=2)
    assert decode_scene(Scene("a", (small, large), ""), 2, image_size_px=6).shape == (2, 3, 4, 6)


def test_no_frames() -> None:
    with pytest.raises(DataError, match="scene 'a' has no frames"):
        decode_scene(Scene("a", (), ""), num_frames=1)


def test_collate_mixes_labelled_and_unlabelled(tmp_path: Path) -> None:
    wide, tall = picture(tmp_path / "0.png", (6, 4)), picture(tmp_path / "1.png", (4, 6))
    labelled = Scene("a", (wide, wide), "train", tuple(STOP), tuple(RED), ("red light",), {"light": "red"})
    dataset = SceneDataset([labelled, Scene("b", (tall,), "", recording="drive")], num_frames=2)
    batch = collate([dataset[0], dataset[1]])
    assert batch.ids == ["a", "b"]
    assert [tuple(frames.shape) for frames in batch.frames] == [(2, 3, 4, 6), (1, 3, 6, 4)]
    assert batch.actions.tolist() == [STOP, [UNLABELLED] * 4]
    assert batch.reasons.tolist() == [RED, [UNLABELLED] * 21]
    assert batch.actions.dtype == batch.reasons.dtype == torch.int64
    assert batch.captions == [("red light",), ()]
    assert batch.facts == [{"light": "red"}, None]
    assert batch.recordings == ["a", "drive"]


def test_a_workers_error_keeps_its_type(tmp_path: Path) -> None:
    dataset = SceneDataset([Scene("a", (tmp_path / "gone.jpg",), "")], num_frames=1)
    with pytest.raises(DataError, match=r"gone\.jpg: image is missing"):
        next(iter(DataLoader(dataset, collate_fn=collate, num_workers=1)))
