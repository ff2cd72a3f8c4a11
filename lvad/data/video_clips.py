"""Clips of a video: the times of the frames of a span, and the pictures that a player shows at these times.

Nothing is copied to the disk. Decoding begins at the key frame before the first time and ends at the last time.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import av
from av.error import FFmpegError
from av.video.stream import VideoStream
from PIL import Image

from lvad.data.reading import plain_file
from lvad.data.videos import frame_time_s, frame_to_image, open_video
from lvad.errors import DataError
from lvad.types import VideoFrame

_TOLERANCE_S: Final = 5e-4
"""Containers round their time stamps."""
_GUESSED: Final = ("mpeg", "mpegts", "mpegvideo")
"""Formats that do not store their length; FFmpeg only guesses it."""
_MAX_GAP_S: Final = 1.0
"""A video is broken if its last frame begins more than this before a time within its length."""


class Header(NamedTuple):
    """Length and size of a video, as its header has them."""

    length_s: float | None
    """Length in seconds; None where it is not stored."""
    size: tuple[int, int]
    """Width and height in pixels as stored: a display matrix may exchange them."""


def read_header(video: Path, video_stream: int | None = None) -> Header:
    """Read the header of a video; it is cached as long as the file stays the same.

    Raises:
        DataError: if it is missing, no video, or has no such stream.
    """
    with _named(video):
        status = plain_file(video)
        return _header(video, status.st_size, status.st_mtime_ns, video_stream)


@lru_cache(maxsize=2**16)  # a video has many spans
def _header(video: Path, size: int, mtime_ns: int, video_stream: int | None) -> Header:
    with open_video(video, video_stream) as (container, stream):
        length_s = None
        if container.format.name not in _GUESSED:
            length_s = container.duration / av.time_base if container.duration else None
            if stream.duration and stream.time_base:
                length_s = float(stream.duration * stream.time_base)
        return Header(length_s, (stream.width, stream.height))


def clip_frames(
    video: Path, start_s: float, end_s: float, num_frames: int, fps: float, video_stream: int | None = None
) -> tuple[VideoFrame, ...]:
    """Choose the last frames of a span: at its end, and 1, 2, ... times 1 / fps before it, oldest first.

    Args:
        video: a video file.
        start_s: start of the span; no frame before it is taken.
        end_s: end of the span, at least ``start_s``.
        num_frames: M, the most frames.
        fps: frames per second of video.
        video_stream: as for ``sample_video``.

    Raises:
        ValueError: if ``fps`` is not positive.
    """
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    times = [round(end_s - i / fps, 3) for i in range(num_frames)]
    kept = [times[0], *(time for time in times[1:] if time >= start_s - _TOLERANCE_S)]
    return tuple(VideoFrame(video, max(0.0, time), video_stream) for time in reversed(kept))


def decode_clip(frames: Sequence[VideoFrame]) -> list[Image.Image]:
    """Decode the pictures of one stream of one video at ascending times, as a player shows them.

    Raises:
        DataError: if the video is missing, no video, broken, or ends before the last time.
    """
    video, _, video_stream = frames[0]
    with _named(video):
        plain_file(video)
        with open_video(video, video_stream) as (container, stream):
            origin_s = float((stream.start_time or 0) * (stream.time_base or 0))
            times = [origin_s + frame.time_s for frame in frames]
            found = _from_key_frame(container, stream, times)
            found = found or _shown(_timed(container, stream), times, _max_gap_s(stream))
            if found is None:
                raise DataError.at(video, "", f"has no picture at {frames[-1].time_s:g} s", "fetch the file again")
            return [frame_to_image(frame, stream, video) for frame in found]


@contextmanager
def _named(video: Path) -> Iterator[None]:
    """Turn every error of a file or its decoder into a ``DataError`` that names the video."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError.at(video, "", "video is missing", "restore it, or correct the path") from error
    except (OSError, ValueError, FFmpegError) as error:
        problem = f"video cannot be decoded ({type(error).__name__}: {error})"
        raise DataError.at(video, "", problem, "fetch the file again, or correct the path") from error


def _from_key_frame(container: Any, stream: VideoStream, times: Sequence[float]) -> list[av.VideoFrame] | None:
    """Decode the frames at these times from the key frame before them; None where the container cannot seek there."""
    if not stream.time_base or times[0] <= 0:
        return None
    try:
        container.seek(int(times[0] / stream.time_base), stream=stream)
    except FFmpegError:
        return None
    return _shown(_timed(container, stream, times[0]), times, _max_gap_s(stream))


def _max_gap_s(stream: VideoStream) -> float:
    return _MAX_GAP_S + 1 / float(stream.average_rate or 25)


def _timed(
    container: Any, stream: VideoStream, latest_start_s: float | None = None
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yield frames with their times.

    Args:
        container: the video, at the position of the last seek.
        stream: the stream of the container to decode.
        latest_start_s: yields nothing where the first frame begins later or has no time; None reads the video from its
            beginning.
    """
    if latest_start_s is None:
        container.seek(0)
    for i, frame in enumerate(container.decode(stream)):
        time_s = frame_time_s(frame, i, stream)
        if i == 0 and latest_start_s is not None and (frame.time is None or time_s > latest_start_s + _TOLERANCE_S):
            return
        yield time_s, frame


def _shown(
    timed: Iterable[tuple[float, av.VideoFrame]], times: Sequence[float], max_gap_s: float
) -> list[av.VideoFrame] | None:
    """Find the frame shown at each time: the latest that has begun, or the first frame before any has begun.

    The result is None where the last frame begins more than ``max_gap_s`` before the last time.
    """
    found: list[av.VideoFrame] = []
    latest, begun_s = None, 0.0
    for time_s, frame in timed:
        while len(found) < len(times) and latest is not None and time_s > times[len(found)] + _TOLERANCE_S:
            found.append(latest)
        if len(found) == len(times):
            return found
        latest, begun_s = frame, time_s
    if latest is None or times[-1] > begun_s + max_gap_s:
        return None
    return found + [latest] * (len(times) - len(found))
