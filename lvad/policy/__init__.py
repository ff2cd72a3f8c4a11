"""Policies: vision-language models with one small interface."""

from typing import Any

from lvad.errors import no_attribute
from lvad.policy.adapters import Lora
from lvad.policy.hf import HFPolicy
from lvad.policy.pixels import ImageOptions
from lvad.policy.sampling import Sampling
from lvad.policy.vision import VisionCache

__all__ = ["HFPolicy", "ImageOptions", "Lora", "Sampling", "VisionCache"]


def __getattr__(name: str) -> Any:
    """Refuse a class that an earlier configuration finds here, with its present name."""
    raise no_attribute(__name__, name)
