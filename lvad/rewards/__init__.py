"""Rewards: frozen modules that score completions."""

from lvad.rewards.agreement import Agreement
from lvad.rewards.bleu import BLEU
from lvad.rewards.clip import CLIPCosine
from lvad.rewards.judge import LLMJudge
from lvad.rewards.margin import CLIPMargin
from lvad.rewards.mix import Ensemble, Mix
from lvad.rewards.reader import Reader
from lvad.rewards.reason import OnReason
from lvad.rewards.rules import Consistency, Format, Length, Repetition

__all__ = [
    "BLEU",
    "Agreement",
    "CLIPCosine",
    "CLIPMargin",
    "Consistency",
    "Ensemble",
    "Format",
    "LLMJudge",
    "Length",
    "Mix",
    "OnReason",
    "Reader",
    "Repetition",
]
