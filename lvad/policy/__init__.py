"""Policies: vision-language models with one small interface."""

from typing import Any, Final

from lvad.policy.adapters import Lora
from lvad.policy.hf import HFPolicy
from lvad.policy.pixels import ImageOptions
from lvad.policy.sampling import Sampling
from lvad.policy.vision import VisionCache

__all__ = ["HFPolicy", "ImageOptions", "Lora", "Sampling", "VisionCache"]

_RENAMED: Final = {"Images": "lvad.policy.ImageOptions"}


def __getattr__(name: str) -> Any:
    """Refuse a class that an earlier configuration finds here, with its new name."""
    if name in _RENAMED:
        raise AttributeError(f"lvad.policy.{name} is now {_RENAMED[name]}: write that in the configuration")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
