"""Answers of the second stage: the texts that are learnt, descriptions, probabilities, decisions and their records."""

from lvad.answers.decision import Voting
from lvad.answers.describer import Description
from lvad.answers.pseudo_labelling import PseudoLabels

__all__ = ["Description", "PseudoLabels", "Voting"]
