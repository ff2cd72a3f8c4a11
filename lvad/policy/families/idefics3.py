"""Idefics3, SmolVLM and SmolVLM2: frames are cut into square tiles here, and scenes share vision encoder calls."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lvad.policy.families.family import Family, FrameTokens
from lvad.policy.pixels import ImageOptions, Tiling

TILE_ATTENTION: Final = "lvad_tiles"
"""The name under which transformers finds the attention of the vision encoder."""
_TILES_ON_CPU: Final = 4
"""Tiles per call of the vision encoder: more take more memory, and no less time each."""
_TILES_ON_DEVICE: Final = 64
"""Likewise on an accelerator, where few large calls are faster; halved when memory runs out."""
_TILES_BATCH_INVARIANT: Final = 32
"""Likewise in calls whose bits must not depend on the number of tiles."""


class TiledFrameEncoder:
    """Encodes frames in tiles, those of all scenes together.

    Args:
        processor: of the model.

    Raises:
        ValueError: for settings of the image processor that are not known.
    """

    def __init__(self, processor: Any) -> None:
        self.tiling = Tiling.of(processor.image_processor)
        self._processor = processor
        self._tiles_on_device = _TILES_ON_DEVICE
        self._tokens_of_grid: dict[tuple[int, int], FrameTokens] = {}

    @property
    def settings(self) -> str:
        """The tiling, as text."""
        return repr(self.tiling)

    def frame_tokens(self, num_frames: int, height: int, width: int) -> FrameTokens:
        """The tokens of a frame, found by giving the processor one blank frame for each grid of tiles."""
        grid = self.tiling.grid(height, width)
        if grid not in self._tokens_of_grid:
            blank = torch.zeros(3, height, width, dtype=torch.uint8)
            token = self._processor.image_token
            inputs = self._processor(text=[token], images=[[blank]], add_special_tokens=False)
            self._tokens_of_grid[grid] = FrameTokens(list(inputs["input_ids"][0]))
        return self._tokens_of_grid[grid]

    def fewer_tokens(self, height: int, width: int) -> list[str]:
        """Image options that cut a frame into fewer tiles."""
        return self.tiling.fewer_tiles(height, width)

    def encode(self, vlm: Any, scenes: Sequence[Tensor]) -> list[Tensor]:
        """Encode each scene, in calls of as many tiles as suit the device."""
        return self._encode(vlm, scenes)

    def encode_batch_invariant(self, vlm: Any, scenes: Sequence[Tensor]) -> list[Tensor]:
        """Encode likewise, such that the bits of a scene do not depend on the other scenes.

        Matrix products of other shapes round differently. On a CPU each scene is encoded by itself. That would leave
        most of an accelerator idle: there all scenes share calls of one fixed shape, padded with tiles of zeros, so
        that the same kernels compute every tile.
        """
        if _is_cpu(vlm):
            return [self._encode(vlm, [frames])[0] for frames in scenes]
        return self._encode(vlm, scenes, _TILES_BATCH_INVARIANT) if scenes else []

    def _encode(self, vlm: Any, scenes: Sequence[Tensor], fixed: int | None = None) -> list[Tensor]:
        """Encode all scenes together, in calls of ``fixed`` tiles or of as many as suit the device."""
        tiles = self._cut(scenes)
        rows = torch.cat(tiles)

        def features(part: Tensor) -> Tensor:
            return _features(vlm, self.tiling.pixel_values(part).to(vlm.dtype))

        if fixed is not None:
            filled = F.pad(rows, (0, 0) * 3 + (0, -len(rows) % fixed))
            encoded = torch.cat([features(part) for part in filled.split(fixed)])[: len(rows)]
        elif _is_cpu(vlm):
            encoded = torch.cat([features(part) for part in rows.split(_TILES_ON_CPU)])
        else:
            encoded = self._as_many_as_fit(features, rows)
        return [part.flatten(0, 1) for part in encoded.split([len(part) for part in tiles])]

    def _cut(self, scenes: Sequence[Tensor]) -> list[Tensor]:
        """Cut each scene into tiles uint8[tiles, 3, side, side]; frames of one size are cut together."""
        sizes: dict[torch.Size, list[int]] = {}
        for index, frames in enumerate(scenes):
            sizes.setdefault(frames.shape[2:], []).append(index)
        cut: dict[int, Tensor] = {}
        for group in sizes.values():
            tiles = self.tiling.tiles(torch.cat([scenes[i] for i in group]))
            parts = tiles.split([len(scenes[i]) for i in group])
            cut.update((i, part.flatten(0, 1)) for i, part in zip(group, parts, strict=True))
        return [cut[index] for index in range(len(scenes))]

    def _as_many_as_fit(self, features: Callable[[Tensor], Tensor], tiles: Tensor) -> Tensor:
        """Encode tiles in the largest calls that fit the device's memory."""
        while True:
            try:
                return torch.cat([features(part) for part in tiles.split(self._tiles_on_device)])
            except torch.OutOfMemoryError:
                # With gradients the activations of all calls stay in memory, so smaller calls would not help.
                if self._tiles_on_device == 1 or torch.is_grad_enabled():
                    raise
                self._tiles_on_device //= 2


def _is_cpu(vlm: Any) -> bool:
    return vlm.device.type == "cpu"


def _features(vlm: Any, pixels: Tensor) -> Tensor:
    """Encode tiles float[tiles, 3, side, side] as float[tiles, tokens of a tile, E].

    Transformers' ``get_image_features`` drops tiles of zeros: the host would wait for the device to find them, and the
    shape would not stay fixed.
    """
    side = pixels.shape[-1] // vlm.config.vision_config.patch_size
    is_real = torch.ones(len(pixels), side, side, dtype=torch.bool, device=pixels.device)
    output = vlm.model.vision_model(pixel_values=pixels, patch_attention_mask=is_real)
    return vlm.model.connector(output.last_hidden_state)


def _limit(images: ImageOptions, processor: Any, config: Any) -> None:
    images.apply(processor)


# No patch of a tile is masked. With its own attention transformers would read the mask from the device to find that
# out; for an attention without a registered mask function it builds no mask.
AttentionInterface.register(TILE_ATTENTION, sdpa_attention_forward)

IDEFICS3 = Family(
    vision=("vision_model", "connector"),
    frame_encoder=TiledFrameEncoder,
    limit=_limit,
    vision_attention=TILE_ATTENTION,
)
