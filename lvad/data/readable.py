"""Scenes for predictions: what cannot be decoded is left out and named, instead of ending the run."""

from pathlib import Path

from lvad.data.open_frames import open_frames
from lvad.data.records import Reading
from lvad.errors import DataError
from lvad.types import Scene, VideoFrame

Sizes = dict[Path | VideoFrame, tuple[int, int] | None]
"""Width and height of frames; None for one that cannot be decoded."""


def keep_readable(reading: Reading, image_size_px: int | None = None) -> Reading:
    """Decode every picture once, and keep the scenes that end with one that can be.

    A scene keeps the frames behind the last that cannot be decoded or is of another size: none spans a gap.

    Args:
        reading: scenes with frames.
        image_size_px: longest edge to which pictures are reduced.

    Returns:
        The same reading, in whose ``errors`` each picture that cannot be decoded is named once.

    Raises:
        DataError: the first error, where no scene is left.
    """
    sizes: Sizes = {}
    for frame in (frame for scene in reading.scenes for frame in scene.frames):
        if frame not in sizes:
            sizes[frame] = None
            with reading.gather():
                sizes[frame] = open_frames([frame], image_size_px)[0].size
    shortened = [scene._replace(frames=_usable(scene, sizes)) for scene in reading.scenes]
    reading.scenes = [scene for scene in shortened if scene.frames]
    if not reading.scenes:
        reading.require()
        raise DataError("no scene with a picture to predict from; give the folder of the pictures as images=")
    return reading


def _usable(scene: Scene, sizes: Sizes) -> tuple[Path | VideoFrame, ...]:
    start = len(scene.frames)
    while start and (size := sizes[scene.frames[start - 1]]) and size == sizes[scene.frames[-1]]:
        start -= 1
    return scene.frames[start:]
