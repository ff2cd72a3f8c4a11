"""Decode frames, whether they are picture files or frames of a video, and leave out what cannot be decoded."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from PIL import Image

from lvad.data.images import open_image, reduce_image
from lvad.data.reading import Reading
from lvad.data.video_clips import decode_clip, read_header
from lvad.errors import DataError
from lvad.types import Scene, VideoFrame

FrameSizes = dict[Path | VideoFrame, tuple[int, int] | None]
"""Width and height of frames; None for one that cannot be decoded."""


def decode_frames(frames: Sequence[Path | VideoFrame], image_size_px: int | None = None) -> list[Image.Image]:
    """Decode M frames.

    Args:
        frames: oldest first; neighbouring frames of one video are decoded together.
        image_size_px: longest edge of the results; larger pictures are reduced.

    Returns:
        M pictures in RGB.

    Raises:
        DataError: for a picture or video that is missing or cannot be decoded.
    """
    images: list[Image.Image] = []
    for _, part in groupby(frames, key=_stream_of):
        neighbours = list(part)
        clip = [frame for frame in neighbours if isinstance(frame, VideoFrame)]
        files = [frame for frame in neighbours if isinstance(frame, Path)]
        images += [reduce_image(image, image_size_px) for image in decode_clip(clip)] if clip else []
        images += [open_image(file, image_size_px) for file in files]
    return images


def _stream_of(frame: Path | VideoFrame) -> tuple[Path, int | None] | None:
    return (frame.video, frame.video_stream) if isinstance(frame, VideoFrame) else None


def frame_size(frame: Path | VideoFrame) -> tuple[int, int]:
    """Read width and height from the file of a frame, without decoding the frame.

    Raises:
        OSError: if it cannot be read, or is no picture.
        DataError: for a video that cannot be read.
    """
    if isinstance(frame, VideoFrame):
        return read_header(frame.video, frame.video_stream).size
    with Image.open(frame) as picture:
        return picture.size


def keep_decodable(reading: Reading, image_size_px: int | None = None) -> Reading:
    """Decode every picture once, and keep the scenes that end with one that can be.

    A scene keeps the frames after the last one that cannot be decoded or has another size: no scene spans a gap.

    Args:
        reading: scenes with frames.
        image_size_px: longest edge to which pictures are reduced.

    Returns:
        The same reading, in whose ``errors`` each picture that cannot be decoded is named once.

    Raises:
        DataError: the first error, where no scene is left.
    """
    sizes: FrameSizes = {}
    for frame in (frame for scene in reading.scenes for frame in scene.frames):
        if frame not in sizes:
            sizes[frame] = None
            with reading.collect_errors():
                sizes[frame] = decode_frames([frame], image_size_px)[0].size
    shortened = [scene._replace(frames=_usable(scene, sizes)) for scene in reading.scenes]
    reading.scenes = [scene for scene in shortened if scene.frames]
    if not reading.scenes:
        reading.require()
        raise DataError("no scene with a picture to predict from; give the folder of the pictures as images=")
    return reading


def _usable(scene: Scene, sizes: FrameSizes) -> tuple[Path | VideoFrame, ...]:
    start = len(scene.frames)
    while start and (size := sizes[scene.frames[start - 1]]) and size == sizes[scene.frames[-1]]:
        start -= 1
    return scene.frames[start:]
