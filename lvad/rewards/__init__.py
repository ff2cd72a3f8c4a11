"""Judges of completions."""

from lvad.rewards.clip import CLIPCosine
from lvad.rewards.margin import CLIPMargin
from lvad.rewards.mix import Ensemble, Mix
from lvad.rewards.rules import Consistency, Format, Length, Repetition

__all__ = ["CLIPCosine", "CLIPMargin", "Consistency", "Ensemble", "Format", "Length", "Mix", "Repetition"]
