"""Videos as a player shows them: mirrored, turned, with square pixels, and of one stream."""

from fractions import Fraction
from pathlib import Path

import av
import av.logging
import numpy as np
import pytest
from PIL import Image

from lvad.data.frames import read_frames, video_frames
from lvad.data.videos import sample_video
from lvad.errors import DataError

RED = (255, 0, 0)


def write(
    path: Path, sizes=((64, 48),), matrix=None, aspect=None, default=(), codec="mpeg4", pix_fmt="yuv420p"
) -> Path:
    """One frame per stream: grey, its top left quarter red; stream i is a little lighter than the one before."""
    with av.open(str(path), "w") as container:
        streams = []
        for i, (width, height) in enumerate(sizes):
            stream = container.add_stream(codec, rate=1)
            stream.width, stream.height, stream.pix_fmt, stream.time_base = width, height, pix_fmt, Fraction(1, 1)
            if matrix is not None:
                stream.set_display_matrix(matrix)
            if aspect is not None:
                stream.codec_context.sample_aspect_ratio = aspect
            if default:
                stream.disposition = av.stream.Disposition.default if i in default else av.stream.Disposition(0)
            streams.append(stream)
        for i, stream in enumerate(streams):
            pixels = np.full((stream.height, stream.width, 3), 60 + 60 * i, np.uint8)
            pixels[: stream.height // 2, : stream.width // 2] = RED
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = 0, Fraction(1, 1)
            container.mux([*stream.encode(frame), *stream.encode()])
    return path


def red_corner(image: Image.Image) -> str:
    """Where the red quarter is."""
    pixels = np.asarray(image).astype(int)
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    corners = {"top left": (0, 0), "top right": (0, width), "bottom left": (height, 0), "bottom right": (height, width)}
    return max(corners, key=lambda name: _redness(pixels, *corners[name], height, width))


def _redness(pixels, top, left, height, width):
    part = pixels[top : top + height, left : left + width]
    return (part[..., 0] - part[..., 1]).mean()


def matrix(a: int, b: int, c: int, d: int) -> list[int]:
    """FFmpeg's 3 x 3 display matrix in fixed point: (x, y) is shown at (a x + c y, b x + d y)."""
    one = 1 << 16
    return [a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30]


@pytest.mark.parametrize(
    ("turned", "corner", "size"),
    [
        ((1, 0, 0, 1), "top left", (64, 48)),
        ((-1, 0, 0, 1), "top right", (64, 48)),  # left and right change places
        ((1, 0, 0, -1), "bottom left", (64, 48)),
        ((-1, 0, 0, -1), "bottom right", (64, 48)),
        ((0, 1, -1, 0), "top right", (48, 64)),  # a quarter turn with the clock: x goes down, y to the left
        ((0, -1, 1, 0), "bottom left", (48, 64)),
        ((0, 1, 1, 0), "top left", (48, 64)),  # rows and columns change places
        ((0, -1, -1, 0), "bottom right", (48, 64)),
    ],
)
def test_every_display_matrix(tmp_path: Path, turned, corner: str, size) -> None:
    (image,) = sample_video(write(tmp_path / "a.mp4", matrix=matrix(*turned)), fps=1)
    assert (red_corner(image), image.size) == (corner, size)


def test_a_matrix_that_says_nothing(tmp_path: Path) -> None:
    (image,) = sample_video(write(tmp_path / "a.mp4", matrix=matrix(0, 0, 0, 0)), fps=1)
    assert (red_corner(image), image.size) == ("top left", (64, 48))


@pytest.mark.parametrize(("aspect", "size"), [((2, 1), (128, 48)), ((1, 2), (64, 96)), ((1, 1), (64, 48))])
def test_pixels_become_square_and_none_is_lost(tmp_path: Path, aspect, size) -> None:
    (image,) = sample_video(write(tmp_path / "a.mkv", aspect=Fraction(*aspect)), fps=1)
    assert image.size == size
    turned = write(tmp_path / "b.mp4", aspect=Fraction(*aspect), matrix=matrix(0, 1, -1, 0))
    (image,) = sample_video(turned, fps=1)
    assert image.size == size[::-1]  # stretched before it is turned


def test_pixels_far_from_square_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write(tmp_path / "a.mkv", ((128, 96),), aspect=Fraction(16, 1))
    monkeypatch.setitem(sample_video.__globals__["_LIMITS"], "max_pixels", "100000")
    with pytest.raises(DataError, match="pixels of aspect 16 make pictures of 2048x96"):
        list(sample_video(video, fps=1))


LARGE, SMALL = (64, 48), (32, 24)


@pytest.mark.parametrize("sizes", [(LARGE, SMALL), (SMALL, LARGE)])
@pytest.mark.parametrize(("default", "wanted"), [((0,), 0), ((1,), 1), ((0, 1), None)])
def test_of_two_streams_the_default_is_read_and_of_equals_the_largest(tmp_path: Path, sizes, default, wanted) -> None:
    video = write(tmp_path / "a.mkv", sizes, default=default)
    wanted = sizes.index(LARGE) if wanted is None else wanted
    said: list[str] = []
    (image,) = sample_video(video, 1, say=said.append)
    assert image.size == sizes[wanted]
    (note,) = said
    assert f"stream {wanted} ({image.width}x{image.height}" in note.partition(" is read, ")[0]
    assert f"stream {1 - wanted}" in note.partition(" is read, ")[2]
    for number in (0, 1):
        (image,) = sample_video(video, 1, number)
        assert image.size == sizes[number]
    with pytest.raises(DataError, match="has 2 video streams, none of number 2"):
        list(sample_video(video, 1, 2))


def test_the_choice_is_said_each_time_and_kept_apart_in_the_cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    video = write(tmp_path / "a.mkv", (LARGE, SMALL), default=(0,))
    for _ in range(2):  # the second time out of the cache
        reading = read_frames(video, 1)
        assert "stream 1 (32x24) left out; video_stream names another" in reading.warnings[0]
    assert Image.open(read_frames(video, 1, video_stream=1).scenes[0].frames[0]).size == SMALL
    assert Image.open(reading.scenes[0].frames[0]).size == LARGE


def test_a_transparent_video_lies_on_white(tmp_path: Path) -> None:
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 8, 4, "rgba"
        pixels = np.zeros((4, 8, 4), np.uint8)
        pixels[:, 4:] = (50, 50, 50, 255)
        container.mux([*stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")), *stream.encode()])
    (image,) = sample_video(path, 1)
    assert (np.asarray(image)[:, :4] == 255).all()
    assert (np.asarray(image)[:, 4:] == 50).all()


def test_the_cases(shared_cases: Path, tmp_path: Path) -> None:
    def first(name: str, **of) -> Image.Image:
        return Image.open(video_frames(shared_cases / name, 1, tmp_path / "cache", **of)[0])

    plain, mirrored = first("video-hflip/plain.mp4"), first("video-hflip/hflip.mp4")
    assert (red_corner(plain), red_corner(mirrored)) == ("top left", "top right")
    assert first("video-pixel-aspect/sar2.mp4").size == (320, 180)
    assert first("video-two-streams/dual_front_first.mp4").size == (320, 180)
    assert first("video-two-streams/dual_rear_first.mp4").size == (160, 90)  # marked as default
    assert first("video-two-streams/dual_rear_first.mp4", video_stream=1).size == (320, 180)


def test_no_thread_of_a_decoder_waits_for_the_interpreter(tmp_path):
    """Where errors are logged by Python, a decoder's thread and the one that frees it wait for each other."""
    video = write(tmp_path / "a.mp4")
    av.logging.set_level(av.logging.ERROR)
    assert len(list(sample_video(video, fps=1.0))) == 1
    assert av.logging.get_level() is None
