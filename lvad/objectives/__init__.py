"""Objectives that run a model: supervised and CLIP losses, the KL and other regularisation, the reader's fit."""

from lvad.objectives.fixmatch import FixMatch
from lvad.objectives.regularisation import KL, Regularisation
from lvad.objectives.rehearsal import Rehearsal
from lvad.objectives.text_objectives import CrossEntropy, ExpectedBLEU, MinimumRiskBLEU

__all__ = ["KL", "CrossEntropy", "ExpectedBLEU", "FixMatch", "MinimumRiskBLEU", "Regularisation", "Rehearsal"]
