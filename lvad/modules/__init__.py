"""The stages as LightningModules."""

from lvad.modules.action_sft import ActionSFT
from lvad.modules.clip_reward import CLIPReward
from lvad.modules.rloo_policy import RLOOPolicy
from lvad.modules.text_reader import TextReader

__all__ = ["ActionSFT", "CLIPReward", "RLOOPolicy", "TextReader"]
