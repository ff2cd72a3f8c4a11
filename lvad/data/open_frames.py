"""The pictures of a scene, whether they are files or moments of a video."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from PIL import Image

from lvad.data.clips import decode_moments, read_header
from lvad.data.images import open_image, reduced
from lvad.types import VideoFrame


def open_frames(frames: Sequence[Path | VideoFrame], image_size_px: int | None = None) -> list[Image.Image]:
    """Decode M frames.

    Args:
        frames: oldest first; neighbouring moments of one video are decoded together.
        image_size_px: longest edge of the results; larger pictures are reduced.

    Returns:
        M pictures in RGB.

    Raises:
        DataError: for a picture or video that is missing or cannot be decoded.
    """
    images: list[Image.Image] = []
    for _, part in groupby(frames, key=_stream_of):
        neighbours = list(part)
        moments = [frame for frame in neighbours if isinstance(frame, VideoFrame)]
        files = [frame for frame in neighbours if isinstance(frame, Path)]
        images += [reduced(image, image_size_px) for image in decode_moments(moments)] if moments else []
        images += [open_image(file, image_size_px) for file in files]
    return images


def _stream_of(frame: Path | VideoFrame) -> tuple[Path, int | None] | None:
    return (frame.video, frame.video_stream) if isinstance(frame, VideoFrame) else None


def size_of(frame: Path | VideoFrame) -> tuple[int, int]:
    """Width and height that a frame's file says, without decoding it.

    Raises:
        OSError: if it cannot be read, or is no picture.
        DataError: for a video that cannot be read.
    """
    if isinstance(frame, VideoFrame):
        return read_header(frame.video, frame.video_stream).size
    with Image.open(frame) as picture:
        return picture.size
