"""Objectives that run a model: supervised losses on texts, penalties and losses beside the policy gradient."""

from lvad.objectives.fixmatch import FixMatch
from lvad.objectives.kl_penalty import KL
from lvad.objectives.regularisation import Controls
from lvad.objectives.rehearsal import Rehearsal
from lvad.objectives.text_objectives import CrossEntropy, ExpectedBLEU, MinimumRisk

__all__ = ["KL", "Controls", "CrossEntropy", "ExpectedBLEU", "FixMatch", "MinimumRisk", "Rehearsal"]
