"""Policies: vision-language models behind one small interface."""

from lvad.policy.adapters import Lora
from lvad.policy.hf import HFPolicy
from lvad.policy.pixels import Images
from lvad.policy.sampling import Sampling
from lvad.policy.vision import VisionCache

__all__ = ["HFPolicy", "Images", "Lora", "Sampling", "VisionCache"]
