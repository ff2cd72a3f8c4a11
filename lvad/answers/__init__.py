"""Answers of stage 2: target texts, descriptions, probabilities, decisions and their records."""

from typing import Any, Final

from lvad.answers.decision import Voting
from lvad.answers.describer import DescriptionOptions
from lvad.answers.pseudo_labelling import PseudoLabels

__all__ = ["DescriptionOptions", "PseudoLabels", "Voting"]

_RENAMED: Final = {"Description": "lvad.answers.DescriptionOptions"}


def __getattr__(name: str) -> Any:
    """Refuse a class that an earlier configuration finds here, with its new name."""
    if name in _RENAMED:
        raise AttributeError(f"lvad.answers.{name} is now {_RENAMED[name]}: write that in the configuration")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
