"""Small sets in both layouts, written for one test."""

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from lvad.facts import ATTRIBUTES
from lvad.taxonomy import BDD_OIA


def flags(*indices: int, length: int = BDD_OIA.num_reasons) -> list[int]:
    return [int(i in indices) for i in range(length)]


def picture(path: Path, size: tuple[int, int] = (16, 12), color: str = "gray") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def write_video(path: Path, num_frames: int, fps: int = 10, rotation: float = 0, gap_s: int = 0) -> Path:
    """Frame i is a gray of level 10 * i, its left half white in a rotated video; a gap lies in the middle."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.time_base = 64, 48, Fraction(1, fps)
        if rotation:
            stream.set_display_rotation(rotation)
        for i in range(num_frames):
            pixels = np.full((48, 64, 3), 10 * i, np.uint8)
            if rotation:
                pixels[:, :32] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.time_base, frame.pts = Fraction(1, fps), i + (gap_s * fps if i >= num_frames / 2 else 0)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


Row = tuple[str, list[int], list[int]]
"""File name, 4 or 5 actions, 21 reasons."""

STOP = [0, 1, 0, 0]
GO = [1, 0, 0, 0]
RED = flags(7)
GREEN = flags(2)
FACTS = {attribute: values[0] for attribute, values in ATTRIBUTES.items()}
"""Every attribute with its first value."""


def lastframe(root: Path, split: str, rows: Sequence[Row], pictures: bool = True) -> Path:
    """Ids are not the list index, annotations are in reverse, reasons rotated by one."""
    root.mkdir(parents=True, exist_ok=True)
    ids = [100 + 7 * i for i in range(len(rows))]
    images = [{"id": i, "file_name": name} for i, (name, _, _) in zip(ids, rows, strict=True)]
    annotations = [{"id": i, "category": actions} for i, (_, actions, _) in zip(ids, rows, strict=True)]
    reasons = [{"file_name": name, "reason": reason} for name, _, reason in rows]
    actions = {"images": images, "annotations": annotations[::-1]}
    (root / f"{split}_25k_images_actions.json").write_text(json.dumps(actions))
    (root / f"{split}_25k_images_reasons.json").write_text(json.dumps(reasons[1:] + reasons[:1]))
    if pictures:
        for name, _, _ in rows:
            picture(root / "data" / name)
    return root


def gt(root: Path, split: str, rows: dict[str, tuple[list[int], list[int]]], pictures: bool = True) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    content = {name: {"actions": actions, "reason": reason} for name, (actions, reason) in rows.items()}
    (root / f"gt_4a_21r_{split}.json").write_text(json.dumps(content))
    if pictures:
        for name in rows:
            picture(root / "images" / f"{name}.jpg")
    return root
