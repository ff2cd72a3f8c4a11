"""The stages of training as LightningModules, and what they inherit."""

from typing import Any, Final

from lvad.modules.action_sft import ActionSFT
from lvad.modules.clip_reward import CLIPReward
from lvad.modules.rloo_policy import RLOOPolicy
from lvad.modules.text_reader import TextReader

__all__ = ["ActionSFT", "CLIPReward", "RLOOPolicy", "TextReader"]

_MOVED: Final = {
    "AverageWeights": "lvad.callbacks.AverageWeights",
    "Controls": "lvad.objectives.Regularisation",
    "FixMatch": "lvad.objectives.FixMatch",
    "KL": "lvad.objectives.KL",
    "KLRate": "lvad.callbacks.KLRate",
    "MinimumRisk": "lvad.objectives.MinimumRiskBLEU",
    "PseudoLabels": "lvad.answers.PseudoLabels",
    "Rehearsal": "lvad.objectives.Rehearsal",
    "Voting": "lvad.answers.Voting",
    "objectives": "lvad.objectives",
}


def __getattr__(name: str) -> Any:
    """Refuse a class that an earlier configuration finds here, with its new place."""
    if name in _MOVED:
        raise AttributeError(f"lvad.modules.{name} is now {_MOVED[name]}: write that in the configuration")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
