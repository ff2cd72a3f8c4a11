"""LLaVA-OneVision: a single frame in tiles and whole, several frames whole only; a learnt token ends each row."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lvad.policy.families.family import Family
from lvad.policy.families.processor_frames import ProcessorFrameEncoder
from lvad.policy.pixels import ImageOptions


def _visual_tokens(vlm: Any, inputs: Mapping[str, Any]) -> Tensor:
    # Without batch_num_images each of several frames would be taken for a single one, and expected in tiles.
    names = ("pixel_values", "image_sizes", "batch_num_images")
    return torch.cat(list(vlm.model.get_image_features(**{name: inputs[name] for name in names}).pooler_output))


def _limit(images: ImageOptions, processor: Any, config: Any) -> None:
    """Drop the larger sizes to which a single frame may be scaled, in the model and in the processor.

    A size of R x C tiles has at most R C + 1 times the tokens of a tile, and one more for each row of patches.
    """
    most = images.most_tokens()
    if most is None:
        return
    px, of_tile = config.vision_config.image_size, processor.num_image_tokens
    rows = px // config.vision_config.patch_size

    def num_tokens(size: list[int]) -> int:
        down, across = size[0] // px, size[1] // px
        return (down * across + 1) * of_tile + down * rows

    sizes = [list(size) for size in config.image_grid_pinpoints]
    kept = [size for size in sizes if num_tokens(size) <= most]
    if not kept:
        least = min(map(num_tokens, sizes))
        raise ValueError(f"images.max_tokens must be >= {least} for this model, got {most}")
    config.image_grid_pinpoints = processor.image_processor.image_grid_pinpoints = kept


LLAVA_ONEVISION = Family(
    vision=("vision_tower", "multi_modal_projector", "image_newline"),
    frame_encoder=lambda processor: ProcessorFrameEncoder(processor, _visual_tokens),
    limit=_limit,
)
