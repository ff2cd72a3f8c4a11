"""Idefics3, SmolVLM and SmolVLM2: square tiles that are cut here, and shared calls of the vision encoder."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lvad.policy.families.family import Family, WrittenFrame, one_position_per_token
from lvad.policy.pixels import Images, Tiling

TILE_ATTENTION: Final = "lvad_tiles"
"""The name under which transformers finds the attention of the vision tower."""
_TILES_ON_CPU: Final = 4
"""Tiles per call of the tower: its memory grows with their number, its time per tile does not fall."""
_TILES_ON_DEVICE: Final = 64
"""Likewise, where a call costs its launches: halved when memory runs out."""
_TILES_ALIKE: Final = 32
"""In calls whose bits must not depend on how many tiles there are."""


class TiledFrames:
    """Frames in tiles; those of all scenes go through the tower together.

    Args:
        processor: of the model.

    Raises:
        ValueError: for settings of the image processor that are not known.
    """

    def __init__(self, processor: Any) -> None:
        self.tiling = Tiling.of(processor.image_processor)
        self._processor = processor
        self._at_once = _TILES_ON_DEVICE
        self._of_grid: dict[tuple[int, int], WrittenFrame] = {}

    @property
    def settings(self) -> str:
        """The tiling."""
        return repr(self.tiling)

    def written(self, num_frames: int, height: int, width: int) -> WrittenFrame:
        """One of the frames, found by giving the processor one blank frame for each grid of tiles."""
        grid = self.tiling.grid(height, width)
        if grid not in self._of_grid:
            blank = torch.zeros(3, height, width, dtype=torch.uint8)
            token = self._processor.image_token
            inputs = self._processor(text=[token], images=[[blank]], add_special_tokens=False)
            self._of_grid[grid] = WrittenFrame(list(inputs["input_ids"][0]))
        return self._of_grid[grid]

    def fewer_tokens(self, height: int, width: int) -> list[str]:
        """Fewer tiles."""
        return self.tiling.fewer_tiles(height, width)

    def encode(self, vlm: Any, scenes: Sequence[Tensor]) -> list[Tensor]:
        """Visual tokens of each scene, in calls of as many tiles as are good on the device."""
        return self._encode(vlm, scenes)

    def encode_alike(self, vlm: Any, scenes: Sequence[Tensor]) -> list[Tensor]:
        """Likewise, in bits that do not depend on the other scenes.

        Products round otherwise in other shapes. On a CPU each scene is encoded by itself. On a device that would leave
        most of it idle: there several scenes share calls of one fixed shape, filled up with tiles of zeros, in which
        every tile is reckoned by the same kernels.
        """
        if _is_cpu(vlm):
            return [self._encode(vlm, [frames])[0] for frames in scenes]
        return self._encode(vlm, scenes, _TILES_ALIKE) if scenes else []

    def _encode(self, vlm: Any, scenes: Sequence[Tensor], fixed: int | None = None) -> list[Tensor]:
        """All scenes together, in calls of ``fixed`` tiles or of as many as are good on the device."""
        tiles = self._cut(scenes)
        rows = torch.cat(tiles)

        def features(part: Tensor) -> Tensor:
            return _features(vlm, self.tiling.pixel_values(part).to(vlm.dtype))

        if fixed is not None:
            filled = F.pad(rows, (0, 0) * 3 + (0, -len(rows) % fixed))
            seen = torch.cat([features(part) for part in filled.split(fixed)])[: len(rows)]
        elif _is_cpu(vlm):
            seen = torch.cat([features(part) for part in rows.split(_TILES_ON_CPU)])
        else:
            seen = self._as_many_as_fit(features, rows)
        return [part.flatten(0, 1) for part in seen.split([len(part) for part in tiles])]

    def _cut(self, scenes: Sequence[Tensor]) -> list[Tensor]:
        """uint8[T, 3, S, S] of each scene; frames of one size go through together."""
        sizes: dict[torch.Size, list[int]] = {}
        for index, frames in enumerate(scenes):
            sizes.setdefault(frames.shape[2:], []).append(index)
        cut: dict[int, Tensor] = {}
        for alike in sizes.values():
            tiles = self.tiling.tiles(torch.cat([scenes[i] for i in alike]))
            parts = tiles.split([len(scenes[i]) for i in alike])
            cut.update((i, part.flatten(0, 1)) for i, part in zip(alike, parts, strict=True))
        return [cut[index] for index in range(len(scenes))]

    def _as_many_as_fit(self, features: Callable[[Tensor], Tensor], tiles: Tensor) -> Tensor:
        while True:
            try:
                return torch.cat([features(part) for part in tiles.split(self._at_once)])
            except torch.OutOfMemoryError:
                # With a gradient every call's activations are kept, so that smaller calls need as much.
                if self._at_once == 1 or torch.is_grad_enabled():
                    raise
                self._at_once //= 2


def _is_cpu(vlm: Any) -> bool:
    return vlm.device.type == "cpu"


def _features(vlm: Any, pixels: Tensor) -> Tensor:
    """float[tiles, tokens, D] of float[tiles, 3, S, S].

    Transformers' ``get_image_features`` leaves out tiles of zeros, for which the host waits for the device, and a
    fixed shape would not stay.
    """
    side = pixels.shape[-1] // vlm.config.vision_config.patch_size
    is_seen = torch.ones(len(pixels), side, side, dtype=torch.bool, device=pixels.device)
    output = vlm.model.vision_model(pixel_values=pixels, patch_attention_mask=is_seen)
    return vlm.model.connector(output.last_hidden_state)


def _limit(images: Images, processor: Any, config: Any) -> None:
    images.apply(processor)


# Tiles are seen whole. Transformers would ask the device whether they are; it builds no mask for an attention that it
# knows no mask function of.
AttentionInterface.register(TILE_ATTENTION, sdpa_attention_forward)

IDEFICS3 = Family(
    vision=("vision_model", "connector"),
    frames=TiledFrames,
    limit=_limit,
    positions=one_position_per_token,
    vision_attention=TILE_ATTENTION,
)
