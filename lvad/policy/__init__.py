"""Policies: vision-language models behind one small interface."""

from lvad.policy.hf import HFPolicy, Lora
from lvad.policy.sampling import Sampling

__all__ = ["HFPolicy", "Lora", "Sampling"]
