"""Tiling and normalisation of frames, as transformers' processors of Idefics3 and SmolVLM do it, on any device.

Their PIL variant needs the frames on the host and tens of milliseconds of a core per tile; their torchvision variant
uses another filter on a device than on the host. Here the result is everywhere that of PIL, to the last bit before
normalisation. All frames of one size are processed together, in a few dozen operations.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor

from lvad.policy.resampling import KERNELS, resize

_FAMILIES: Final = ("Idefics3ImageProcessor", "SmolVLMImageProcessor")
_MOST_PX: Final = 4096
"""The processors reduce frames to this edge if they are still larger after scaling to the longest edge."""


@dataclass(frozen=True)
class ImageOptions:
    """Options of how a frame is scaled and cut; None keeps the setting of the model's own processor.

    A released SmolVLM scales every frame, however small, to 2,048 pixels along its longest edge and cuts it into tiles
    of 512: a frame of 1280x720 becomes 13 tiles, which are 13 times 64 tokens of every prompt. With ``longest_edge_px``
    1536 it becomes 7 tiles, with 1024 5, with ``splitting`` false 1.

    Args:
        splitting: show the tiles and the whole frame (true), or only the whole frame, reduced to one tile (false).
        longest_edge_px: scale each frame to this before it is cut: a multiple of the tile.
        max_tokens: at most so many visual tokens of a frame, instead of these two, for Qwen-VL, InternVL and
            LLaVA-OneVision. Qwen-VL scales a frame until it fits, InternVL cuts it into fewer tiles, and so does
            LLaVA-OneVision, which shows several frames as one tile each in any case.
    """

    splitting: bool | None = None
    longest_edge_px: int | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.longest_edge_px is not None and self.longest_edge_px < 1:
            raise ValueError(f"images.longest_edge_px must be >= 1, got {self.longest_edge_px}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"images.max_tokens must be >= 1, got {self.max_tokens}")

    def most_tokens(self) -> int | None:
        """The most visual tokens of a frame, for a model that accepts only this setting.

        Raises:
            ValueError: if another setting is given.
        """
        if self.splitting is not None or self.longest_edge_px is not None:
            raise ValueError(
                "images.splitting and images.longest_edge_px are for Idefics3, SmolVLM and SmolVLM2; give "
                "images.max_tokens for this model"
            )
        return self.max_tokens

    def apply(self, processor: Any) -> None:
        """Change the settings of a processor of Idefics3 or SmolVLM, which are saved with it.

        Raises:
            ValueError: if the longest edge is no multiple of the tile or makes more rows of tiles than the model has
                tokens for, or if ``max_tokens`` is given.
        """
        if self.max_tokens is not None:
            raise ValueError(
                "images.max_tokens is not for Idefics3, SmolVLM and SmolVLM2; give images.longest_edge_px or "
                "images.splitting for this model"
            )
        images = processor.image_processor
        if self.splitting is not None:
            images.do_image_splitting = self.splitting
        if self.longest_edge_px is not None:
            tile = Tiling.of(images).tile_px
            if self.longest_edge_px % tile or self.longest_edge_px > _MOST_PX:
                allowed = f"a multiple of the processor's tile, {tile}, of at most {_MOST_PX}"
                raise ValueError(f"images.longest_edge_px must be {allowed}, got {self.longest_edge_px}")
            images.do_resize = True
            images.size = {"longest_edge": self.longest_edge_px}
        tiling = Tiling.of(images)
        if self == ImageOptions() or not tiling.is_split or tiling.longest_edge_px is None:
            return
        side = tiling.longest_edge_px // tiling.tile_px
        token = f"<row_{side}_col_{side}>"
        if side > 1 and token not in processor.tokenizer.get_vocab():
            problem = f"cut frames into {side} x {side} tiles, and the model has no token {token!r}"
            raise ValueError(f"images {problem}; give a smaller images.longest_edge_px, or images.splitting false")


@dataclass(frozen=True)
class Tiling:
    """How a processor scales, cuts and normalises a frame.

    Args:
        longest_edge_px: the edge to which frames are scaled first; None leaves them as they are.
        tile_px: edge of the square tiles that the vision encoder takes.
        is_split: show the tiles of a frame and then the whole frame; else only the whole frame.
        resample: the filter, by Pillow's number.
        mean: of 8-bit values, one for each channel.
        std: of 8-bit values, one for each channel.
    """

    longest_edge_px: int | None
    tile_px: int
    is_split: bool
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, processor: Any) -> "Tiling":
        """Read the settings of a transformers image processor, of the PIL or the torchvision variant.

        Raises:
            ValueError: naming a setting that is not known.
        """
        name = type(processor).__name__
        if not name.startswith(_FAMILIES):
            raise ValueError(f"image processor {name} is not known; known: {', '.join(_FAMILIES)}")
        resample, factor = processor.resample, processor.rescale_factor if processor.do_rescale else 1.0
        if not isinstance(resample, int) or resample not in KERNELS:
            known = ", ".join(f"{number} ({kernel.name})" for number, kernel in KERNELS.items())
            raise ValueError(f"image processor's resample {resample!r:.80} is not known; set it to one of {known}")
        if not isinstance(factor, int | float):
            raise ValueError(f"image processor's rescale_factor must be a number, got {factor!r:.80}")
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
        return cls(
            _longest_edge("size", processor.size) if processor.do_resize else None,
            _longest_edge("max_image_size", processor.max_image_size),
            bool(processor.do_image_splitting),
            int(resample),
            _channels("image_mean", mean, factor),
            _channels("image_std", std, factor),
        )

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the tiles that a frame is cut into; (0, 0) if only the whole frame is shown."""
        height, width = self._sizes(height, width)[-1]
        rows, columns = height // self.tile_px, width // self.tile_px
        return (0, 0) if rows * columns == 1 else (rows, columns)

    def num_tiles(self, height: int, width: int) -> int:
        """The number of tiles of a frame, the whole frame included."""
        rows, columns = self.grid(height, width)
        return rows * columns + 1

    def fewer_tiles(self, height: int, width: int) -> list[str]:
        """Image options that cut a frame into fewer tiles, with their number, the smallest reduction first."""
        now, px = self.num_tiles(height, width), self.tile_px
        edges = range(px * (max(self._sizes(height, width)[-1]) // px - 1), px, -px)
        fewer = [(edge, replace(self, longest_edge_px=edge).num_tiles(height, width)) for edge in edges]
        settings = [f"images.longest_edge_px {edge} ({tiles} tiles a frame)" for edge, tiles in fewer if tiles < now]
        return [*settings[:1], "images.splitting false (1 tile a frame)"] if now > 1 else []

    def tiles(self, frames: Tensor) -> Tensor:
        """Scale frames of one size and cut them.

        Args:
            frames: uint8[frames, 3, H, W].

        Returns:
            uint8[frames, tiles, 3, side, side], the tiles of each frame row by row, and the whole frame last.
        """
        px = self.tile_px
        for height, width in self._sizes(*frames.shape[2:]):
            frames = resize(frames, height, width, self.resample)
        rows, columns = (length // px for length in frames.shape[2:])
        # [frames, 3, rows, side, columns, side] to [frames, rows columns, 3, side, side].
        cut = frames.unflatten(3, (columns, px)).unflatten(2, (rows, px)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        if rows * columns == 1:
            return cut
        return torch.cat([cut, resize(frames, px, px, self.resample).unsqueeze(1)], 1)

    def pixel_values(self, tiles: Tensor) -> Tensor:
        """Normalise tiles uint8[tiles, 3, side, side] to float32 of the same shape."""
        mean, std = _constants(self.mean, tiles.device), _constants(self.std, tiles.device)
        return tiles.float().sub_(mean).div_(std)

    def _sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """The heights and widths to which a frame is resized in turn before it is cut."""
        sizes = []
        if self.longest_edge_px is not None:
            height, width = _at_most(*_scaled(height, width, self.longest_edge_px), _MOST_PX)
            sizes.append((height, width))
        sizes.append(_in_tiles(height, width, self.tile_px) if self.is_split else (self.tile_px, self.tile_px))
        return sizes


def _scaled(height: int, width: int, longest: int) -> tuple[int, int]:
    """Scale to a longest edge; the other edge is in proportion and rounded up to an even number."""
    ratio = width / height
    if width >= height:
        short = int(longest / ratio)
        return max(short + short % 2, 1), longest
    short = int(longest * ratio)
    return longest, max(short + short % 2, 1)


def _at_most(height: int, width: int, longest: int) -> tuple[int, int]:
    """Scale down to a longest edge, if the frame is larger."""
    ratio = width / height
    if max(height, width) <= longest:
        return height, width
    return (max(int(longest / ratio), 1), longest) if width >= height else (longest, max(int(longest * ratio), 1))


def _in_tiles(height: int, width: int, px: int) -> tuple[int, int]:
    """Round the longest edge up to whole tiles, scale the other in proportion, and round it up too."""
    ratio = width / height
    if width >= height:
        width = math.ceil(width / px) * px
        return math.ceil(int(width / ratio) / px) * px, width
    height = math.ceil(height / px) * px
    return height, math.ceil(int(height * ratio) / px) * px


def _longest_edge(name: str, size: Any) -> int:
    value = dict(size).get("longest_edge")
    others = [key for key, other in dict(size).items() if other is not None and key != "longest_edge"]
    if not isinstance(value, int) or value < 1 or others:
        raise ValueError(f"image processor's {name} must be {{'longest_edge': pixels}}, got {dict(size)}")
    return value


def _channels(name: str, values: Any, factor: float) -> tuple[float, ...]:
    """One number per channel, in units of 8-bit values."""
    values = [values] * 3 if isinstance(values, int | float) else list(values)
    is_number = [isinstance(value, int | float) and math.isfinite(value) for value in values]
    if len(values) != 3 or not all(is_number) or (name == "image_std" and min(values) <= 0) or not factor > 0:
        allowed = "three numbers, a std and rescale_factor above 0"
        raise ValueError(f"image processor's {name} must be {allowed}, got {values} and {factor}")
    # In float32 and in this order, so that the numbers are rounded like those of transformers.
    return tuple((torch.tensor(values, dtype=torch.float32) * (1.0 / factor)).tolist())


@lru_cache(maxsize=16)
def _constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """float[3, 1, 1] on a device, cached, so that it is copied only once."""
    return torch.tensor(values, device=device).view(-1, 1, 1)
