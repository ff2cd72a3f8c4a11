"""Loading of pictures and videos as scenes, within the limits of the data that a run was trained on."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lvad.data.collate import decode_scene, stack_frames
from lvad.data.decoding import keep_decodable
from lvad.data.frames import video_frames
from lvad.data.images import open_image, prepare_image
from lvad.data.layouts import read_source
from lvad.data.videos import VIDEO_SUFFIXES
from lvad.errors import DataError
from lvad.taxonomy import Taxonomy
from lvad.types import Scene

Picture = str | os.PathLike[str] | Image.Image | np.ndarray
"""A file, a PIL image, or uint8[H, W, 3] in RGB."""
Frames = Picture | Sequence[Picture] | Scene
"""One scene: a picture, several pictures (oldest first), a video file, uint8[M, H, W, 3], or a ``Scene`` of lvad."""

UNNAMED = "scene"


class SceneLoader(NamedTuple):
    """Loads pictures and videos as scenes, within the limits of a run's data."""

    num_frames: int
    """M, the most frames of a scene; of more frames the last M are taken."""
    image_size_px: int | None
    """Longest edge of a frame after reduction; None keeps the size."""
    fps: float
    """Pictures per second taken from a video."""
    video_stream: int | None
    """As for ``lvad.data.videos.sample_video``."""
    taxonomy: Taxonomy

    def read(self, frames: Frames) -> tuple[Scene, Tensor]:
        """Decode the last M frames of one scene.

        Args:
            frames: the scene.

        Returns:
            The scene, named after its last file, and uint8[M, 3, H, W].

        Raises:
            DataError: if a file is missing or cannot be decoded, the frames differ in size, there is none, or the
                value is none of ``Frames``.
        """
        if isinstance(frames, Scene):
            return frames, decode_scene(frames, self.num_frames, self.image_size_px)
        if isinstance(frames, str | os.PathLike):
            return self._read_file(Path(frames).expanduser())
        pictures = [frames] if _is_picture(frames) else self._last(frames)
        names = [str(p) if isinstance(p, str | os.PathLike) else f"frame {i}" for i, p in enumerate(pictures)]
        scene = Scene(_name_of(pictures[-1]), (), split="")
        return scene, stack_frames(scene.id, names, [self._decode(*pair) for pair in zip(pictures, names, strict=True)])

    def scenes(self, path: str | os.PathLike[str]) -> list[Scene]:
        """Return the scenes of a picture, a video or a folder of either, in time order, as ``lvad predict`` does.

        Every frame of a sequence ends one scene; the first scenes have fewer than M frames.

        Args:
            path: a file or a folder.

        Raises:
            DataError: naming the first file that cannot be read.
        """
        root = Path(path).expanduser()
        found = read_source(root, "frames", self.num_frames, None, self.fps, self.video_stream, True, self.taxonomy)
        return keep_decodable(found, self.image_size_px).require().scenes

    def _read_file(self, path: Path) -> tuple[Scene, Tensor]:
        if os.path.isdir(path):
            remedy = "give its frames as a list, oldest first, or take its scenes with .scenes(folder)"
            raise DataError.at(path, "", "is a folder, not the frames of one scene", remedy)
        files = (path,)
        if path.suffix.lower() in VIDEO_SUFFIXES:
            files = tuple(video_frames(path, self.fps, video_stream=self.video_stream))
        scene = Scene(path.stem, files, split="")
        return scene, decode_scene(scene, self.num_frames, self.image_size_px)

    def _last(self, frames: Any) -> list[Picture]:
        try:
            pictures = [*frames][-self.num_frames :]
        except TypeError as error:
            raise DataError(_refusal(frames)) from error
        if not pictures:
            raise DataError("a scene needs at least one frame, got none; give a picture, or a list of them")
        return pictures

    def _decode(self, picture: Any, name: str) -> Image.Image:
        if isinstance(picture, str | os.PathLike):
            return open_image(Path(picture).expanduser(), self.image_size_px)
        try:
            return prepare_image(_image(picture), self.image_size_px)
        except (OSError, SyntaxError) as error:  # a PIL image is read from its file when it is first used
            raise DataError.at(name, "", f"image cannot be decoded ({error})", "give another one") from error


def _is_picture(value: object) -> bool:
    return isinstance(value, Image.Image) or (isinstance(value, np.ndarray | Tensor) and value.ndim < 4)


def _image(picture: Any) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture.copy()  # a caller's image stays as it is
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3:
        if picture.shape[2] == 3 and picture.size:
            return Image.fromarray(np.ascontiguousarray(picture))
    raise DataError(_refusal(picture))


def _refusal(value: object) -> str:
    got = type(value).__name__
    if isinstance(value, np.ndarray | torch.Tensor):
        got = f"{got} {value.dtype}{list(value.shape)}"
    return f"a frame must be a file, a PIL image or a NumPy array uint8[H, W, 3], got {got}; convert it to one of them"


def _name_of(picture: object) -> str:
    return Path(picture).stem if isinstance(picture, str | os.PathLike) else UNNAMED
