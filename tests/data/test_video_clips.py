"""Moments of a video are the pictures that a player shows, whatever the container and its key frames."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from layouts import write_video

from lvad.data.collate import decode_scene
from lvad.data.decoding import decode_frames, frame_size
from lvad.data.video_clips import clip_frames, decode_clip, read_header
from lvad.errors import DataError
from lvad.types import Scene, VideoFrame


def grey(image) -> int:
    """Of a frame of ``write_video`` its number."""
    return round(np.asarray(image).mean() / 10)


def numbers(video: Path, *times: float) -> list[int]:
    return [grey(image) for image in decode_clip([VideoFrame(video, time) for time in times])]


def times_of(*span) -> list[float]:
    return [frame.time_s for frame in clip_frames(Path("a.mp4"), *span)]


def test_the_last_frames_of_a_span_end_with_it():
    assert times_of(1.0, 5.0, 3, 1.0) == [3, 4, 5]
    assert times_of(1.0, 5.0, 9, 0.5) == [1, 3, 5]
    assert times_of(1.0, 5.0, 1, 1.0) == [5]
    assert times_of(4.5, 5.0, 4, 1.0) == [5]
    assert times_of(2.0, 2.0, 4, 1.0) == [2]
    assert times_of(0.0, 1.0, 4, 3.0) == [0, 0.333, 0.667, 1]
    with pytest.raises(ValueError, match="fps must be positive, got 0"):
        times_of(0.0, 1.0, 1, 0.0)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi", "a.webm", "a.mpg"])
def test_the_picture_of_a_moment_is_the_latest_that_has_begun(tmp_path, name):
    fps = 25 if name == "a.mpg" else 10  # MPEG knows few rates, and its clock begins at 0.5 s
    video = write_video(tmp_path / name, 25, fps) if name != "a.webm" else write_gop(tmp_path / name, "libvpx")
    assert read_header(video).length_s == (None if name == "a.mpg" else pytest.approx(2.5, abs=0.05))
    step = 1 / fps
    assert numbers(video, 0.0, 7 * step, 7.9 * step, 8 * step, 24 * step, 25 * step) == [0, 7, 7, 8, 24, 24]
    assert numbers(video, 17.2 * step) == [17]


def write_gop(path: Path, codec: str = "libx264") -> Path:
    """As ``write_video``, with a key frame in ten, and for H.264 frames that need later ones."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            codec, rate=10, options={"g": "10", "sc_threshold": "0", "bf": "2", "crf": "4"}
        )
        stream.width, stream.height, stream.time_base = 64, 48, Fraction(1, 10)
        for i in range(25):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * i, np.uint8), format="rgb24")
            frame.time_base, frame.pts = Fraction(1, 10), i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_between_key_frames_every_picture_is_exact(tmp_path):
    video = write_gop(tmp_path / "a.mp4")
    with av.open(str(video)) as container:
        keys = [frame.pts for frame in container.decode(video=0) if frame.key_frame]
    assert len(keys) == 3
    assert [numbers(video, i / 10)[0] for i in range(25)] == list(range(25))
    assert numbers(video, *(i / 10 for i in range(25))) == list(range(25))


def test_a_gap_shows_the_picture_before_it(tmp_path):
    video = write_video(tmp_path / "a.mp4", 20, gap_s=5)  # frames 0 to 9, five seconds of nothing, 10 to 19
    assert numbers(video, 0.9, 3.0, 5.9, 6.0) == [9, 9, 9, 10]


def test_a_moment_without_a_picture_and_files_that_are_no_videos_are_named(tmp_path):
    video = write_video(tmp_path / "a.mp4", 20)
    assert numbers(video, 2.5) == [19]
    with pytest.raises(DataError, match=r"a.mp4: has no picture at 4 s; fetch the file again"):
        numbers(video, 4.0)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    for ask in (lambda path: numbers(path, 0.0), read_header):
        with pytest.raises(DataError, match=r"b.mp4: video cannot be decoded \(InvalidDataError"):
            ask(tmp_path / "b.mp4")
        with pytest.raises(DataError, match=r"c.mp4: video is missing; restore it"):
            ask(tmp_path / "c.mp4")


def test_a_broken_video_ends_in_one_message(tmp_path):
    whole = write_gop(tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a.mkv: "):
        numbers(tmp_path / "a.mkv", 2.4)


def test_a_scene_of_moments_is_decoded_as_one_of_pictures_is(tmp_path):
    video = write_video(tmp_path / "a.mp4", 20)
    scene = Scene("a", clip_frames(video, 0.5, 1.5, 3, 2.0), "train")
    assert [str(frame) for frame in scene.frames[:1]] == [f"{video} at 0.5 s"]
    frames = decode_scene(scene, 2, image_size_px=32)
    assert frames.shape == (2, 3, 24, 32)
    assert [round(frame.float().mean().item() / 10) for frame in frames] == [10, 15]
    assert frame_size(scene.frames[0]) == (64, 48)


def test_frames_of_both_kinds_keep_their_order(tmp_path):
    one, two = write_video(tmp_path / "a.mp4", 20), write_video(tmp_path / "b.mp4", 20)
    picture = tmp_path / "a.png"
    decode_frames([VideoFrame(one, 0.3)])[0].save(picture)
    frames = [VideoFrame(one, 0.1), VideoFrame(one, 0.9), picture, VideoFrame(two, 0.5)]
    assert [grey(image) for image in decode_frames(frames)] == [1, 9, 3, 5]
