"""Judges of completions."""

from lvad.rewards.clip import CLIPCosine

__all__ = ["CLIPCosine"]
