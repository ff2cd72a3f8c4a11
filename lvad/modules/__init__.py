"""The stages of training as LightningModules, and what they inherit."""

from typing import Any

from lvad.errors import no_attribute
from lvad.modules.action_sft import ActionSFT
from lvad.modules.clip_reward import CLIPReward
from lvad.modules.rloo_policy import RLOOPolicy
from lvad.modules.text_reader import TextReader

__all__ = ["ActionSFT", "CLIPReward", "RLOOPolicy", "TextReader"]


def __getattr__(name: str) -> Any:
    """Refuse a class that an earlier configuration finds here, with its present name."""
    raise no_attribute(__name__, name)
