"""Frames through a model's own processor, one scene at a time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lvad.policy.families.family import WrittenFrame

See = Callable[[Any, Mapping[str, Any]], Tensor]
"""Visual tokens float[V, L E] of one scene, from a transformers model and what its processor makes of the frames."""


class ProcessedFrames:
    """Frames as transformers' processor prepares them, on the device where they are.

    A scene is encoded by itself, so that the bits of its tokens do not depend on its company. Its processor is asked
    through its public call with all frames at once: some image processors do other things where they are called alone,
    or for one frame than for several.

    Args:
        processor: of the model.
        see: runs the vision encoder.
    """

    def __init__(self, processor: Any, see: See) -> None:
        self._processor, self._see = processor, see
        self._written: dict[tuple[bool, int, int], WrittenFrame] = {}

    @property
    def settings(self) -> str:
        """What the image processor is set to."""
        return self._processor.image_processor.to_json_string()

    def written(self, num_frames: int, height: int, width: int) -> WrittenFrame:
        """One of the frames, found by giving the processor blank ones."""
        key = (num_frames > 1, height, width)
        if key not in self._written:
            shown = min(num_frames, 2)
            inputs = self._inputs(torch.zeros(shown, 3, height, width, dtype=torch.uint8))
            ids = inputs["input_ids"][0].tolist()
            grids = inputs.get("image_grid_thw")
            self._written[key] = WrittenFrame(ids[: len(ids) // shown], None if grids is None else grids[0])
        return self._written[key]

    def fewer_tokens(self, height: int, width: int) -> list[str]:
        """A smaller budget of a frame."""
        return [f"a smaller images.max_tokens (a frame is {len(self.written(1, height, width).ids)} tokens)"]

    def encode(self, vlm: Any, scenes: Sequence[Tensor]) -> list[Tensor]:
        """Visual tokens of each scene."""
        seen = []
        for frames in scenes:
            inputs = dict(self._inputs(frames))
            inputs["pixel_values"] = inputs["pixel_values"].to(vlm.device, vlm.dtype)
            seen.append(self._see(vlm, inputs))
        return seen

    encode_alike = encode

    def _inputs(self, frames: Tensor) -> Mapping[str, Any]:
        text = [self._processor.image_token * len(frames)]
        return self._processor(text=text, images=[list(frames)], add_special_tokens=False, return_tensors="pt")
