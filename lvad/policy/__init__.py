"""Policies: vision-language models behind one small interface."""

from lvad.policy.adapters import Lora
from lvad.policy.feature_store import VisionCache
from lvad.policy.hf import HFPolicy
from lvad.policy.pixels import Images
from lvad.policy.sampling import Sampling

__all__ = ["HFPolicy", "Images", "Lora", "Sampling", "VisionCache"]
