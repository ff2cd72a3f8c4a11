from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import av
import numpy as np
import pytest
from layouts import picture, write_video
from PIL import Image

from lvad.data.frames import read_frames, video_frames
from lvad.errors import DataError


def level(path: Path) -> float:
    return float(np.asarray(Image.open(path)).mean())


def test_windows_of_a_sequence(tmp_path: Path) -> None:
    for n in (1, 2, 9, 10):
        picture(tmp_path / "drive" / f"{n}.png")
    scenes = read_frames(tmp_path, num_frames=3).scenes
    assert [[frame.stem for frame in scene.frames] for scene in scenes] == [["1", "2", "9"], ["2", "9", "10"]]
    assert [scene.id for scene in scenes] == ["drive/9", "drive/10"]
    assert {(scene.split, scene.actions, scene.reasons) for scene in scenes} == {("", None, None)}


def test_stride_and_short_sequences(tmp_path: Path) -> None:
    for n in range(5):
        picture(tmp_path / "long" / f"{n}.png")
    picture(tmp_path / "short" / "0.png")
    scenes = read_frames(tmp_path, num_frames=2, stride=3).scenes
    assert [scene.id for scene in scenes] == ["long/1", "long/4", "short/0"]
    assert len(scenes[-1].frames) == 1


def test_ids_differ_where_stems_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for name in ("one/a.jpg", "one/a.png", "other/a.jpg", "other/b.png", "drive/000001.jpg"):
        picture(tmp_path / "in" / name)
    write_video(tmp_path / "in/drive.mp4", 2)
    ids = [scene.id for scene in read_frames(tmp_path / "in", num_frames=1, fps=100).scenes]
    assert ids == [
        "drive.mp4/000000", "drive.mp4/000001", "drive/000001", "one/a.jpg", "one/a.png", "other/a", "other/b",
    ]  # fmt: skip


def test_one_picture(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpeg")
    (scene,) = read_frames(path, num_frames=2).scenes
    assert (scene.id, scene.frames) == ("a", (path,))


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DataError, match="no pictures or videos"):
        read_frames(tmp_path, num_frames=1)


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv", "mov"])
def test_a_video_is_sampled_by_time(tmp_path: Path, suffix: str) -> None:
    video = write_video(tmp_path / f"drive.{suffix}", 20, fps=10)
    frames = video_frames(video, fps=2, cache=tmp_path / "cache")
    # 2 s at 2 pictures per second: frames 0, 5, 10 and 15 of levels 0, 50, 100 and 150.
    assert [round(level(frame), -1) for frame in frames] == [0, 50, 100, 150]
    assert len(video_frames(video, fps=100, cache=tmp_path / "cache")) == 20


def test_a_gap_in_a_video_is_not_caught_up(tmp_path: Path) -> None:
    # Frames at 0, 0.1, ... 0.9 s and, after a gap, at 10, 10.1, ... 10.9 s.
    video = write_video(tmp_path / "drive.mkv", 20, fps=10, gap_s=9)
    frames = video_frames(video, fps=2, cache=tmp_path / "cache")
    # At most two pictures per second on either side, one more where the clock starts anew.
    assert [round(level(frame), -1) for frame in frames[:3]] == [0, 50, 100]
    assert len(frames) in (4, 5)


def test_a_video_without_time_stamps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Frame:
        time = None
        side_data: ClassVar[dict[str, bytes]] = {}
        format = SimpleNamespace(components=())

        def to_image(self) -> Image.Image:
            return Image.new("RGB", (4, 4))

    class Container:
        stream = SimpleNamespace(
            average_rate=10, codec_context=SimpleNamespace(width=4, height=4), disposition=0, sample_aspect_ratio=None
        )
        streams = SimpleNamespace(video=[stream])

        def __enter__(self) -> "Container":
            return self

        def __exit__(self, *_: object) -> None: ...

        def decode(self, stream: object) -> list[Frame]:
            return [Frame()] * 20

    monkeypatch.setattr(av, "open", lambda *_, **__: Container())
    (tmp_path / "drive.mp4").touch()
    # 20 frames at 10 per second are 2 s.
    assert len(video_frames(tmp_path / "drive.mp4", fps=2, cache=tmp_path / "cache")) == 4


def test_a_decoded_video_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write_video(tmp_path / "drive.mp4", 10)
    first = video_frames(video, fps=5, cache=tmp_path / "cache")
    monkeypatch.setattr(av, "open", lambda *_: pytest.fail("decoded twice"))
    assert video_frames(video, fps=5, cache=tmp_path / "cache") == first
    assert [path.parent for path in first] == [*(tmp_path / "cache").iterdir()] * len(first)


def test_videos_and_pictures_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    picture(tmp_path / "in" / "still.png")
    write_video(tmp_path / "in" / "drive.mp4", 10)
    scenes = read_frames(tmp_path / "in", num_frames=2, fps=4).scenes
    assert [scene.id for scene in scenes] == ["still", "drive/000001", "drive/000002", "drive/000003"]
    assert [len(scene.frames) for scene in scenes] == [1, 2, 2, 2]


def test_a_rotated_video_stands_upright(tmp_path: Path) -> None:
    # A quarter turn against the clock takes the white left half to the bottom.
    video = write_video(tmp_path / "phone.mp4", 3, rotation=90)
    image = np.asarray(Image.open(video_frames(video, fps=10, cache=tmp_path / "cache")[0]))
    assert image.shape == (64, 48, 3)
    assert image[:28].mean() < 10 < 245 < image[36:].mean()


@pytest.mark.parametrize("content", [b"", b"no video at all" * 50])
def test_broken_videos(tmp_path: Path, content: bytes) -> None:
    video = tmp_path / "drive.mp4"
    video.write_bytes(content)
    with pytest.raises(DataError, match=r"drive\.mp4: video cannot be decoded"):
        video_frames(video, fps=1, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "cache").rmdir()
    assert "cannot be decoded" in str(read_frames(tmp_path, num_frames=1).errors[0])


def test_other_video_faults(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        video_frames(tmp_path / "nowhere.mp4", fps=1)
    with pytest.raises(ValueError, match="fps must be positive, got 0"):
        video_frames(tmp_path / "nowhere.mp4", fps=0)
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode()])
    with pytest.raises(DataError, match="no video stream"):
        video_frames(sound, fps=1, cache=tmp_path / "cache")
