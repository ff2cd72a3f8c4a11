"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: frames of any size in patches, positions of three parts, DeepStack in the last."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lvad.policy.families.family import Family, WrittenFrame
from lvad.policy.families.processed import ProcessedFrames
from lvad.policy.pixels import Images


def _see(vlm: Any, inputs: Mapping[str, Any]) -> Tensor:
    output = vlm.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"].to(vlm.device))
    deep = getattr(output, "deepstack_features", None) or []  # of Qwen3-VL: per layer
    # A tuple of frames; before transformers 5.2x DeepStack's layers are one tensor each.
    layers = (layer if torch.is_tensor(layer) else torch.cat(layer) for layer in (output.pooler_output, *deep))
    return torch.cat([*layers], -1)


def _positions(vlm: Any, ids: Tensor, num_frames: int, written: WrittenFrame) -> Tensor:
    assert written.grid is not None
    # A frame's tokens share a time and have rows and columns; the words behind it go on after the largest of these.
    # The kinds of tokens must be given: without them Qwen2.5-VL falls back to one part.
    is_image = (ids == vlm.config.image_token_id).int()
    grids = written.grid.expand(num_frames, -1)
    return vlm.model.get_rope_index(ids[None], mm_token_type_ids=is_image[None], image_grid_thw=grids)[0][:, 0]


def _limit(images: Images, processor: Any, config: Any) -> None:
    """A frame is scaled so that its area is within bounds; a visual token is a square of ``merge_size`` patches."""
    most = images.most_tokens()
    if most is None:
        return
    eyes = processor.image_processor
    area = (eyes.patch_size * eyes.merge_size) ** 2
    least = -(-eyes.size["shortest_edge"] // area)
    if most < least:
        raise ValueError(f"images.max_tokens must be >= {least} for this model, got {most}")
    eyes.size = {"shortest_edge": eyes.size["shortest_edge"], "longest_edge": most * area}


QWEN_VL = Family(
    vision=("visual",),
    frames=lambda processor: ProcessedFrames(processor, _see),
    limit=_limit,
    positions=_positions,
)
