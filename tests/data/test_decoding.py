"""What cannot be decoded is named once, and the other scenes are left for predictions."""

from pathlib import Path

import pytest
from layouts import picture

from lvad.data.datamodule import BDDOIADataModule
from lvad.data.decoding import keep_decodable
from lvad.data.frames import read_frames
from lvad.data.source import Source
from lvad.errors import DataError


def frames(reading) -> list[list[str]]:
    return [[frame.name for frame in scene.frames] for scene in reading.scenes]


def test_no_scene_spans_a_picture_that_cannot_be_decoded_or_has_another_size(tmp_path: Path) -> None:
    for i in range(6):
        picture(tmp_path / f"f{i}.png", (16, 12) if i < 4 else (12, 16))
    (tmp_path / "f2.png").write_bytes((tmp_path / "f2.png").read_bytes()[:40])
    reading = keep_decodable(read_frames(tmp_path, 2, from_first=True))
    assert frames(reading) == [["f0.png"], ["f0.png", "f1.png"], ["f3.png"], ["f4.png"], ["f4.png", "f5.png"]]
    (error,) = reading.errors
    assert "f2.png: image cannot be decoded" in str(error)


def test_where_nothing_is_left_the_first_error_is_raised(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"f{i}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"f0\.png: image cannot be decoded.*1 more; `lvad data check` lists all"):
        keep_decodable(read_frames(tmp_path, 2, from_first=True))


def test_a_broken_video_does_not_end_predictions(tmp_path: Path) -> None:
    picture(tmp_path / "street.png")
    (tmp_path / "drive.mp4").write_bytes(b"no video")
    data = BDDOIADataModule(Source("frames", str(tmp_path)))
    data.prepare_data()
    data.setup("predict")
    assert [batch.ids for batch in data.predict_dataloader()] == [["street"]]
    assert data.predicted is not None
    assert "drive.mp4: video cannot be decoded" in str(data.predicted.errors[0])


def test_the_case(shared_cases: Path) -> None:
    reading = keep_decodable(read_frames(shared_cases / "predict-one-bad/frames", 2, from_first=True))
    assert len(reading.scenes) == 3
    assert len(reading.errors) == 1
