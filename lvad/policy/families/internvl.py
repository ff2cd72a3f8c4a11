"""InternVL3 and InternVL3.5: square tiles, and behind several of them the whole frame as one."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lvad.policy.families.family import Family, one_position_per_token
from lvad.policy.families.processed import ProcessedFrames
from lvad.policy.pixels import Images


def _see(vlm: Any, inputs: Mapping[str, Any]) -> Tensor:
    # One row of tiles, those of all frames one after the other.
    return vlm.model.get_image_features(inputs["pixel_values"]).pooler_output.flatten(0, 1)


def _limit(images: Images, processor: Any, config: Any) -> None:
    """A tile is ``image_seq_length`` tokens. The processor always cuts: one tile is a frame in one piece."""
    most = images.most_tokens()
    if most is None:
        return
    tiles = most // processor.image_seq_length
    if tiles < 1:
        raise ValueError(f"images.max_tokens must be >= {processor.image_seq_length} for this model, got {most}")
    processor.image_processor.min_patches = 1
    processor.image_processor.max_patches = max(1, tiles - 1)


INTERNVL = Family(
    vision=("vision_tower", "multi_modal_projector"),
    frames=lambda processor: ProcessedFrames(processor, _see),
    limit=_limit,
    positions=one_position_per_token,
)
