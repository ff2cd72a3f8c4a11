"""The stages as LightningModules, and what is configured in them."""

from lvad.modules.action_sft import ActionSFT
from lvad.modules.clip_reward import CLIPReward
from lvad.modules.controls import Controls
from lvad.modules.deciding import Voting
from lvad.modules.fixmatch import FixMatch
from lvad.modules.kl_control import KL
from lvad.modules.kl_rate import KLRate
from lvad.modules.pseudo_labelling import PseudoLabels
from lvad.modules.rehearsal import Rehearsal
from lvad.modules.rloo_policy import RLOOPolicy
from lvad.modules.text_reader import TextReader
from lvad.modules.weight_average import AverageWeights

__all__ = [
    "KL",
    "ActionSFT",
    "AverageWeights",
    "CLIPReward",
    "Controls",
    "FixMatch",
    "KLRate",
    "PseudoLabels",
    "RLOOPolicy",
    "Rehearsal",
    "TextReader",
    "Voting",
]
