"""A frame encoder that calls the model's own processor, one scene at a time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lvad.policy.families.family import FrameTokens

VisualTokens = Callable[[Any, Mapping[str, Any]], Tensor]
"""Computes the N visual tokens float[N, L E] of one scene, from a transformers model and its processor's outputs."""


class ProcessorFrameEncoder:
    """Encodes frames that transformers' processor has prepared, on the device where they are.

    Each scene is encoded by itself, so the bits of its tokens do not depend on other scenes. The processor is called
    as a whole and with all frames of the scene: some image processors behave differently when called without it, or
    with one frame instead of several.

    Args:
        processor: of the model.
        visual_tokens: runs the vision encoder.
    """

    def __init__(self, processor: Any, visual_tokens: VisualTokens) -> None:
        self._processor, self._visual_tokens = processor, visual_tokens
        self._frame_tokens: dict[tuple[bool, int, int], FrameTokens] = {}

    @property
    def settings(self) -> str:
        """The image processor's settings, as JSON."""
        return self._processor.image_processor.to_json_string()

    def frame_tokens(self, num_frames: int, height: int, width: int) -> FrameTokens:
        """The tokens of a frame, found by giving the processor blank frames."""
        key = (num_frames > 1, height, width)
        if key not in self._frame_tokens:
            shown = min(num_frames, 2)
            inputs = self._inputs(torch.zeros(shown, 3, height, width, dtype=torch.uint8))
            ids = inputs["input_ids"][0].tolist()
            grids = inputs.get("image_grid_thw")
            self._frame_tokens[key] = FrameTokens(ids[: len(ids) // shown], None if grids is None else grids[0])
        return self._frame_tokens[key]

    def fewer_tokens(self, height: int, width: int) -> list[str]:
        """Advise a smaller limit, with the number of tokens now."""
        return [f"a smaller images.max_tokens (a frame is {len(self.frame_tokens(1, height, width).ids)} tokens)"]

    def encode(self, vlm: Any, scenes: Sequence[Tensor]) -> list[Tensor]:
        """Encode each scene."""
        encoded = []
        for frames in scenes:
            inputs = dict(self._inputs(frames))
            inputs["pixel_values"] = inputs["pixel_values"].to(vlm.device, vlm.dtype)
            encoded.append(self._visual_tokens(vlm, inputs))
        return encoded

    encode_batch_invariant = encode

    def _inputs(self, frames: Tensor) -> Mapping[str, Any]:
        text = [self._processor.image_token * len(frames)]
        return self._processor(text=text, images=[list(frames)], add_special_tokens=False, return_tensors="pt")
