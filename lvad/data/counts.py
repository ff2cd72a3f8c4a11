"""Counts of scenes as a configuration gives them."""

from dataclasses import dataclass
from typing import Final, Self


@dataclass(frozen=True)
class SceneCounts:
    """How many scenes of each split: a count, a share in (0, 1], or None for all.

    Args:
        train: of the training scenes; a smaller choice lies within every larger one, and each is stratified.
        val: of the validation scenes.
        test: of the test scenes.
    """

    train: int | float | None = None
    val: int | float | None = None
    test: int | float | None = None

    def or_else(self, other: Self) -> Self:
        """The same counts, with those of ``other`` where these are None."""
        pairs = ((self.train, other.train), (self.val, other.val), (self.test, other.test))
        return type(self)(*(theirs if own is None else own for own, theirs in pairs))


ALL_SCENES: Final = SceneCounts()


def at_least(least: int, value: int, what: str) -> int:
    """The value.

    Raises:
        ValueError: naming it, where it is smaller.
    """
    if value < least:
        raise ValueError(f"{what} must be at least {least}, got {value}")
    return value
