"""LLaVA-OneVision: one frame alone in tiles and whole, several frames whole alone; a parameter ends their rows."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lvad.policy.families.family import Family, one_position_per_token
from lvad.policy.families.processed import ProcessedFrames
from lvad.policy.pixels import Images


def _see(vlm: Any, inputs: Mapping[str, Any]) -> Tensor:
    # How many frames belong together has to be told: each would be taken for one that is alone, and in tiles.
    names = ("pixel_values", "image_sizes", "batch_num_images")
    return torch.cat(list(vlm.model.get_image_features(**{name: inputs[name] for name in names}).pooler_output))


def _limit(images: Images, processor: Any, config: Any) -> None:
    """Leave out the larger of the sizes to which a frame alone is brought; model and processor must have the same.

    A size of R x C tiles is at most R C + 1 times the tokens of a tile, and one for each row of these.
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
    frames=lambda processor: ProcessedFrames(processor, _see),
    limit=_limit,
    positions=one_position_per_token,
)
