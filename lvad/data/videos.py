"""Read videos: choose one of a file's streams, and convert its frames to the pictures that a player shows."""

import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import av.logging
from av.stream import Disposition
from av.video.stream import VideoStream
from PIL import Image, ImageOps

from lvad.data.images import to_rgb
from lvad.errors import DataError, one_line

VIDEO_SUFFIXES: Final = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})
UNREAD_VIDEO_SUFFIXES: Final = frozenset(
    {".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv", ".h264", ".h265", ".hevc"}
)
"""Suffixes of video formats that are not read; files with them are reported."""
# FFmpeg goes by what a file holds and not by its name: a list of other files, or of addresses, would be followed.
_LIMITS: Final = {
    "format_whitelist": "mov,mp4,avi,matroska,webm,mpeg,mpegts,mpegvideo,m4v",
    "protocol_whitelist": "file",
    "max_pixels": str(Image.MAX_IMAGE_PIXELS),  # of a frame, as of a picture
}
# A title that is no UTF-8 is no reason to refuse a video; PyAV 19 has no such argument and takes any title.
_TITLES: Final[dict[str, Any]] = {} if int(av.__version__.partition(".")[0]) > 18 else {"metadata_errors": "replace"}


def sample_video(
    path: Path, fps: float, video_stream: int | None = None, say: Callable[[str], None] = lambda text: None
) -> Iterator[Image.Image]:
    """Decode a video's pictures one by one, as a player shows them, at most ``fps`` of them per second of video.

    They are upright and mirrored as the display matrix says, and widened or heightened until their pixels are square.

    Args:
        path: a video file.
        fps: pictures per second of video; a video with fewer gives every frame it has.
        video_stream: which of several video streams, counted from 0; None takes the one that the container marks as
            default, the largest where several are or none is. Cover pictures are no streams.
        say: called with a note on which stream was taken, where there are several.

    Raises:
        DataError: if the file has no such stream, or its pixels are too far from square.
        FFmpegError: if it is no video, or broken before its end.
        OSError: if it cannot be read.
    """
    due_s = None
    with open_video(path, video_stream, say) as (container, stream):
        for i, frame in enumerate(container.decode(stream)):
            time_s = frame_time_s(frame, i, stream)
            # Half a millisecond of tolerance: containers round their time stamps.
            if due_s is None or time_s >= due_s - 5e-4:
                # The later of both: after a gap in the video there is nothing to catch up.
                due_s = max(time_s, (time_s if due_s is None else due_s) + 1 / fps)
                yield frame_to_image(frame, stream, path)


@contextmanager
def open_video(
    path: Path, video_stream: int | None = None, say: Callable[[str], None] = lambda text: None
) -> Iterator[tuple[Any, VideoStream]]:
    """Open a video: its container and the stream that is read. Arguments and errors are those of ``sample_video``."""
    # Another library may have FFmpeg's errors logged by Python. A decoder's thread then waits for the interpreter
    # lock, while the thread that holds the lock frees the decoder and waits for that thread: neither goes on.
    av.logging.set_level(None)
    with av.open(str(path), options=_LIMITS, **_TITLES) as container:
        stream = _choose(container, path, video_stream, say)
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": _LIMITS["max_pixels"]}
        yield container, stream


def frame_time_s(frame: av.VideoFrame, index: int, stream: VideoStream) -> float:
    """Return when a frame begins, in seconds of the file's own clock.

    Args:
        frame: a decoded frame.
        index: how many frames were decoded before it, for containers without time stamps.
        stream: the stream of the frame.
    """
    return frame.time if frame.time is not None else index / float(stream.average_rate or 25)


def frame_to_image(frame: av.VideoFrame, stream: VideoStream, path: Path) -> Image.Image:
    """Convert a frame to the picture that a player shows.

    Raises:
        DataError: if its pixels are too far from square.
    """
    return _upright(_square(_picture(frame), stream.sample_aspect_ratio, path), _matrix(frame))


def _choose(container: Any, path: Path, number: int | None, say: Callable[[str], None]) -> VideoStream:
    streams = [s for s in container.streams.video if not _has_mark(s, "attached_pic")]
    if not streams:
        raise DataError.at(path, "", "file has no video stream", "correct the path")
    if number is not None and not 0 <= number < len(streams):
        problem = f"has {len(streams)} video streams, none of number {number}"
        raise DataError.at(path, "", problem, "correct video_stream, which counts from 0")
    chosen = max(streams, key=_preference) if number is None else streams[number]
    if len(streams) > 1:
        others = [_in_words(streams, s) for s in streams if s is not chosen]
        read, left_out = _in_words(streams, chosen), " and ".join(others)
        say(one_line(f"{path}: {read} is read, {left_out} left out; video_stream names another"))
    if chosen.codec_context is None:
        raise DataError.at(path, "", "FFmpeg has no decoder for its video", "convert it to another codec")
    return chosen


def _preference(stream: VideoStream) -> tuple[bool, bool, int]:
    context = stream.codec_context
    if context is None:  # no decoder for it
        return False, False, 0
    return True, _has_mark(stream, "default"), context.width * context.height


def _has_mark(stream: VideoStream, name: str) -> bool:
    return bool(stream.disposition & getattr(Disposition, name))


def _in_words(streams: list[VideoStream], stream: VideoStream) -> str:
    context = stream.codec_context
    size = "no decoder" if context is None else f"{context.width}x{context.height}"
    default = ", the default" if _has_mark(stream, "default") else ""
    return f"stream {streams.index(stream)} ({size}{default})"


def _picture(frame: av.VideoFrame) -> Image.Image:
    if any(component.is_alpha for component in frame.format.components):
        return to_rgb(Image.fromarray(frame.to_ndarray(format="rgba")))
    return frame.to_image()


def _square(image: Image.Image, aspect: Fraction | None, path: Path) -> Image.Image:
    """Resize a picture to square pixels by enlarging its width or its height, so that no detail is lost."""
    if not aspect or aspect == 1:
        return image
    width, height = image.size
    size = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    if size[0] * size[1] > int(_LIMITS["max_pixels"]):
        problem = f"pixels of aspect {float(aspect):g} make pictures of {size[0]}x{size[1]}"
        raise DataError.at(path, "", problem, "convert the video to square pixels")
    return image.resize(size, Image.Resampling.BICUBIC)


def _matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """Return a, b, c and d of the display matrix: (x, y) is shown at (a x + c y, b x + d y), y downwards."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))
    return a, b, c, d


def _upright(image: Image.Image, matrix: tuple[int, int, int, int]) -> Image.Image:
    a, b, c, d = matrix
    if a * d - b * c < 0:  # mirrored: first left to right, then turned by what is left
        image, a, b = ImageOps.mirror(image), -a, -b
    degrees = -round(math.degrees(math.atan2(b, a)))  # against the clock, as Pillow turns
    return image.rotate(degrees, expand=True) if degrees % 360 else image
