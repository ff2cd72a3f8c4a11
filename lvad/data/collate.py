"""Scenes with their frames decoded, one by one and in batches."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lvad.data.decoding import decode_frames
from lvad.data.recordings import recording_of
from lvad.errors import DataError
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.types import UNLABELLED, Batch, Scene, VideoFrame


def decode_scene(scene: Scene, num_frames: int, image_size_px: int | None = None) -> Tensor:
    """Decode the last frames of a scene.

    Args:
        scene: frames oldest first.
        num_frames: M; a scene with fewer frames gives what it has.
        image_size_px: longest edge after reduction; None keeps the size on disk.

    Returns:
        uint8[M, 3, H, W] in RGB.

    Raises:
        DataError: if a frame is missing or unreadable, the frames differ in size, or there is none.
    """
    frames = scene.frames[-num_frames:]
    if not frames:
        raise DataError(f"scene {scene.id!r} has no frames; give the folder of the pictures as images=")
    return stack_frames(scene.id, frames, decode_frames(frames, image_size_px))


def stack_frames(scene_id: str, names: Sequence[Path | VideoFrame | str], images: Sequence[Image.Image]) -> Tensor:
    """Put the decoded frames of a scene into one tensor.

    Args:
        scene_id: for the message.
        names: of M frames, for the message.
        images: M frames in RGB.

    Returns:
        uint8[M, 3, H, W].

    Raises:
        DataError: if the frames differ in size.
    """
    frames = [np.asarray(image) for image in images]  # M times uint8[H, W, 3]
    for name, frame in zip(names, frames, strict=True):
        if frame.shape != frames[0].shape:
            sizes = [f"{f.shape[1]}x{f.shape[0]}" for f in (frames[0], frame)]
            problem = f"is {sizes[1]}, but {names[0]} of the same scene {sizes[0]}"
            raise DataError.at(str(name), f"scene {scene_id!r}", problem, "bring both to one size, or num_frames=1")
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()


class SceneDataset(Dataset[tuple[Scene, Tensor]]):
    """Scenes with their frames, decoded when asked for.

    Args:
        scenes: what to read.
        num_frames: M, the most frames of a scene, counted from the last.
        image_size_px: longest edge of a frame; None keeps the size on disk.
    """

    def __init__(self, scenes: Sequence[Scene], num_frames: int, image_size_px: int | None = None) -> None:
        self.scenes = scenes
        self.num_frames = num_frames
        self.image_size_px = image_size_px

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Scene, Tensor]:
        scene = self.scenes[index]
        return scene, decode_scene(scene, self.num_frames, self.image_size_px)


def collate(items: Sequence[tuple[Scene, Tensor]], taxonomy: Taxonomy = BDD_OIA) -> Batch:
    """Gather scenes into a batch; those without labels get ``UNLABELLED`` in every entry."""
    no_actions, no_reasons = (UNLABELLED,) * taxonomy.num_actions, (UNLABELLED,) * taxonomy.num_reasons
    scenes = [scene for scene, _ in items]
    return Batch(
        ids=[scene.id for scene in scenes],
        frames=[frames for _, frames in items],
        actions=torch.tensor([scene.actions or no_actions for scene in scenes]),
        reasons=torch.tensor([scene.reasons or no_reasons for scene in scenes]),
        captions=[scene.captions for scene in scenes],
        facts=[None if scene.facts is None else dict(scene.facts) for scene in scenes],
        recordings=[recording_of(scene) for scene in scenes],
        taxonomy=taxonomy,
    )


def scenes_at(batch: Batch, places: Sequence[int]) -> Batch:
    """Return the scenes at some places of a batch, in the order of the places."""
    rows = list(places)
    return Batch(
        ids=[batch.ids[i] for i in rows],
        frames=[batch.frames[i] for i in rows],
        actions=batch.actions[rows],
        reasons=batch.reasons[rows],
        captions=[batch.captions[i] for i in rows],
        facts=[batch.facts[i] for i in rows],
        recordings=[batch.recordings[i] for i in rows],
        taxonomy=batch.taxonomy,
    )
