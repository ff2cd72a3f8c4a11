"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: frames of any size in patches, M-RoPE, and DeepStack in Qwen3-VL."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lvad.policy.families.family import Family, FrameTokens
from lvad.policy.families.processor_frames import ProcessorFrameEncoder
from lvad.policy.pixels import ImageOptions


def _visual_tokens(vlm: Any, inputs: Mapping[str, Any]) -> Tensor:
    output = vlm.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"].to(vlm.device))
    deep = getattr(output, "deepstack_features", None) or []  # only Qwen3-VL has them: one per layer
    # A layer is a tuple with one tensor per frame; before transformers 5.2x DeepStack's layers are one tensor each.
    layers = (layer if torch.is_tensor(layer) else torch.cat(layer) for layer in (output.pooler_output, *deep))
    return torch.cat([*layers], -1)


def _positions(vlm: Any, ids: Tensor, num_frames: int, frame: FrameTokens) -> Tensor:
    assert frame.grid is not None
    # The tokens of a frame share a time and differ in row and column; the text goes on after the largest of these.
    # mm_token_type_ids must be given: without them Qwen2.5-VL counts all tokens alike.
    is_image = (ids == vlm.config.image_token_id).int()
    grids = frame.grid.expand(num_frames, -1)
    return vlm.model.get_rope_index(ids[None], mm_token_type_ids=is_image[None], image_grid_thw=grids)[0][:, 0]


def _limit(images: ImageOptions, processor: Any, config: Any) -> None:
    """Limit the area to which a frame is scaled; a visual token is a square of ``merge_size`` patches."""
    most = images.most_tokens()
    if most is None:
        return
    image_processor = processor.image_processor
    area = (image_processor.patch_size * image_processor.merge_size) ** 2
    least = -(-image_processor.size["shortest_edge"] // area)
    if most < least:
        raise ValueError(f"images.max_tokens must be >= {least} for this model, got {most}")
    image_processor.size = {"shortest_edge": image_processor.size["shortest_edge"], "longest_edge": most * area}


QWEN_VL = Family(
    vision=("visual",),
    frame_encoder=lambda processor: ProcessorFrameEncoder(processor, _visual_tokens),
    limit=_limit,
    positions=_positions,
)
