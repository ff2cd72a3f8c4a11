"""Which of a model's own decisions are confident enough to be training targets."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor


class ConfidentChoice(NamedTuple):
    """The decision for each of B scenes, and whether it is confident enough."""

    choice: Int[Tensor, " B"]
    """The most probable of S decisions."""
    probability: Float[Tensor, " B"]
    """Its probability, sharpened."""
    is_kept: Bool[Tensor, " B"]
    """Whether that is at least the threshold."""


def confident_choice(logps: Float[Tensor, "B S"], threshold: float, temperature: float = 1.0) -> ConfidentChoice:
    """Choose the most probable decision of each scene; keep it if its sharpened probability reaches a threshold.

    Args:
        logps: log-probabilities, normalised or not.
        threshold: in [0, 1].
        temperature: divides the log-probabilities; below 1 it sharpens. 1 leaves them.

    Raises:
        ValueError: for a threshold out of range, or a temperature that is not positive.

    Source:
        Sohn et al. 2020 (arXiv:2001.07685), the indicator of the unlabelled loss; the temperature is the confidence
        temperature of Liu et al. 2025 (arXiv:2512.10244).
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    probability, choice = (logps.float() / temperature).softmax(-1).max(-1)
    return ConfidentChoice(choice, probability, probability >= threshold)
