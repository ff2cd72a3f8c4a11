"""Answers of stage 2: target texts, descriptions, probabilities, decisions and their records."""

from typing import Any

from lvad.answers.decision import Voting
from lvad.answers.describer import DescriptionOptions
from lvad.answers.pseudo_labelling import PseudoLabels
from lvad.errors import no_attribute

__all__ = ["DescriptionOptions", "PseudoLabels", "Voting"]


def __getattr__(name: str) -> Any:
    """Refuse a class that an earlier configuration finds here, with its present name."""
    raise no_attribute(__name__, name)
