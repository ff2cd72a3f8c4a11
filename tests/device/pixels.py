"""Frames that need resizing, on the host and on the test device, by each image processor that transformers may take.

    python tests/device/pixels.py FOLDER

writes ``pixels.json``: per processor the largest differences of pixels and of visual tokens, and their spread.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def _seen(policy: Any, frames: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """The pixels that the tower is given, and the visual tokens."""
    pixels: list[Tensor] = []

    def note(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        pixels.append(kwargs["pixel_values"].detach().cpu())

    policy.to(device)
    hook = policy.vlm.model.vision_model.register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad():
        (tokens,) = policy._eyes.look(policy.vlm, [frames.to(device)])
    hook.remove()
    return torch.cat(pixels), tokens.cpu()


def compare(with_older: bool) -> dict[str, Any]:
    """Differences between frames and model on the host, and both on the device."""
    import backend
    from jobs import older_processor

    from lvad.policy import HFPolicy, VisionCache

    with older_processor(with_older):
        policy = HFPolicy(vision_cache=VisionCache(memory_mb=0))
    frames = torch.randint(0, 256, (1, 3, 180, 320), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found: dict[str, Any] = {"processor": type(policy.processor.image_processor).__name__}
    try:
        (pixels, tokens), (device_pixels, device_tokens) = (
            _seen(policy, frames, device) for device in (torch.device("cpu"), backend.DEVICE)
        )
    except TypeError as error:
        return found | {"error": str(error)}
    return found | {
        "pixels": (pixels - device_pixels).abs().max().item(),
        "pixels_spread": pixels.std().item(),
        "tokens": (tokens - device_tokens).abs().max().item(),
        "tokens_spread": tokens.std().item(),
    }


if __name__ == "__main__":
    Path(sys.argv[1], "pixels.json").write_text(json.dumps([compare(older) for older in (False, True)]))
