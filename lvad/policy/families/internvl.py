"""InternVL3 and InternVL3.5: square tiles, followed by the whole frame as one tile if there are several."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lvad.policy.families.family import Family
from lvad.policy.families.processor_frames import ProcessorFrameEncoder
from lvad.policy.pixels import ImageOptions


def _visual_tokens(vlm: Any, inputs: Mapping[str, Any]) -> Tensor:
    # The tiles of all frames are one batch, in order.
    return vlm.model.get_image_features(inputs["pixel_values"]).pooler_output.flatten(0, 1)


def _limit(images: ImageOptions, processor: Any, config: Any) -> None:
    """Limit the number of tiles, each of ``image_seq_length`` tokens; one tile shows the whole frame."""
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
    frame_encoder=lambda processor: ProcessorFrameEncoder(processor, _visual_tokens),
    limit=_limit,
)
