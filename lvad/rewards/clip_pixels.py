"""What open_clip's own transform does to one PIL image, done to the frames of a scene at once."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv


def preprocess(frames: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Bring frames to a model's size, and normalise them.

    ``squash`` stretches to the size, ``shortest`` covers it and crops what is over, ``longest`` fits into it and pads
    the rest with ``fill_color``.

    Args:
        frames: uint8[M, 3, H, W].
        config: open_clip's ``preprocess_cfg``: ``size`` (one number, or height and width), ``resize_mode``,
            ``interpolation``, ``mean``, ``std`` and, for padding, ``fill_color``.

    Returns:
        float[M, 3, S, S'] of that size; resized pixels are rounded to bytes, as those of an image are.

    Raises:
        ValueError: for a ``resize_mode`` that open_clip does not have.
    """
    size, mode = _height_and_width(config["size"]), config["resize_mode"]
    if mode not in ("squash", "shortest", "longest"):
        raise ValueError(f"resize_mode must be squash, shortest or longest, got {mode!r}")
    resized = list(size) if mode == "squash" else _scaled(tuple(frames.shape[-2:]), size, longest=mode == "longest")
    # open_clip takes bicubic where it covers a size that is not square, whatever is configured.
    is_fixed = mode == "shortest" and size[0] != size[1]
    kernel = tv.InterpolationMode.BILINEAR if config["interpolation"] == "bilinear" else tv.InterpolationMode.BICUBIC
    kernel = tv.InterpolationMode.BICUBIC if is_fixed else kernel
    frames = tv.resize(frames, resized, interpolation=kernel, antialias=True)
    frames = _crop_or_pad(frames, size, config.get("fill_color", 0))
    mean, std = (_constants(tuple(config[name]), frames.device) for name in ("mean", "std"))
    return (tv.to_dtype(frames, torch.float32, scale=True) - mean) / std


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _constants(channels: tuple[float, ...], device: torch.device) -> Tensor:
    """float[3, 1, 1], made once: each copy to a device is waited for."""
    return torch.tensor(channels, dtype=torch.float32, device=device).view(-1, 1, 1)


def _height_and_width(size: int | list[int] | tuple[int, ...]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


def _scaled(source: tuple[int, ...], target: tuple[int, int], longest: bool) -> list[int]:
    """A size of the same shape that fits into the target (``longest``) or covers it, as torchvision takes it."""
    if not longest and target[0] == target[1]:
        return [target[0]]  # of the shorter edge; the other one is cut off to a whole number and not rounded
    ratios = [have / wanted for have, wanted in zip(source, target, strict=True)]
    ratio = max(ratios) if longest else min(ratios)
    return [max(1, round(have / ratio)) for have in source]


def _crop_or_pad(frames: Tensor, size: tuple[int, int], fill: int) -> Tensor:
    """The middle of the frames, with an even margin around those that are too small."""
    height, width = frames.shape[-2:]
    missing = max(0, size[0] - height), max(0, size[1] - width)
    if any(missing):
        left, top = missing[1] // 2, missing[0] // 2
        frames = tv.pad(frames, [left, top, missing[1] - left, missing[0] - top], fill=[fill])
    return tv.center_crop(frames, list(size))
