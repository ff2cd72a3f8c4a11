"""The stages as LightningModules."""

from lvad.modules.action_sft import ActionSFT
from lvad.modules.clip_reward import CLIPReward
from lvad.modules.rloo_policy import RLOOPolicy

__all__ = ["ActionSFT", "CLIPReward", "RLOOPolicy"]
