"""Policies: vision-language models behind one small interface."""

from lvad.policy.adapters import Lora
from lvad.policy.hf import HFPolicy
from lvad.policy.sampling import Sampling

__all__ = ["HFPolicy", "Lora", "Sampling"]
