"""Frames that need resizing, on the host and on the test device."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def compare(chosen: Callable[[bool], AbstractContextManager[None]], with_older: bool) -> dict[str, Any]:
    """The largest differences between all on the host and all on the device.

    Args:
        chosen: lets transformers choose the image processor.
        with_older: that of PIL.

    Returns:
        ``processor``, its class; ``pixels`` and ``tokens``, the largest differences of what the tower is given and of
        what it gives; their spread on the host as ``..._spread``. In place of these an ``error``.
    """
    import backend

    from lvad.policy import HFPolicy

    with chosen(with_older):
        policy = HFPolicy()
    frames = torch.randint(0, 256, (1, 3, 180, 320), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found: dict[str, Any] = {"processor": type(policy.processor.image_processor).__name__}
    try:
        host, device = (_seen(policy, frames, device) for device in (torch.device("cpu"), backend.DEVICE))
    except TypeError as error:
        return found | {"error": str(error)}
    for name, here, there in zip(("pixels", "tokens"), host, device, strict=True):
        found |= {name: (here - there).abs().max().item(), f"{name}_spread": here.std().item()}
    return found


def _seen(policy: Any, frames: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """The pixels that the tower is given, and the visual tokens."""
    pixels: list[Tensor] = []

    def note(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        pixels.append(kwargs["pixel_values"].detach().cpu())

    policy.to(device)
    policy._vision_encoder._keeps = False  # what one device saw is not to be looked up for the other
    hook = policy.vlm.model.vision_model.register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad():
        (tokens,) = policy._vision_encoder.encode_images(policy.vlm, [frames.to(device)])
    hook.remove()
    return torch.cat(pixels), tokens.cpu()
