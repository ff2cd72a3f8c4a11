"""Corrupt the words of a right text, to train a judge to score the result lower.

Source:
    Cho et al. 2022, "Fine-grained Image Captioning with CLIP Reward": the same five corruptions train their text
    encoder.
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch

Words = list[str]


def _below(count: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(count, (), generator=generator))


def repeat(words: Words, generator: torch.Generator | None = None) -> Words:
    """Repeat a random run of one to three words directly after itself."""
    start = _below(len(words), generator)
    stop = min(len(words), start + 1 + _below(3, generator))
    return words[:stop] + words[start:]


def remove(words: Words, generator: torch.Generator | None = None) -> Words:
    """Leave out about a third of the words, at least one and never all."""
    count = max(1, min(len(words) - 1, round(len(words) / 3)))
    gone = set(torch.randperm(len(words), generator=generator)[:count].tolist())
    return [word for i, word in enumerate(words) if i not in gone]


def insert(words: Words, pool: Sequence[str], generator: torch.Generator | None = None) -> Words:
    """Insert foreign words at about a third of the places, at least one."""
    found = list(words)
    for _ in range(max(1, round(len(words) / 3))):
        found.insert(_below(len(found) + 1, generator), pool[_below(len(pool), generator)])
    return found


def swap(words: Words, pool: Sequence[str], generator: torch.Generator | None = None) -> Words:
    """Replace about a third of the words by foreign words, at least one."""
    found = list(words)
    for i in torch.randperm(len(words), generator=generator)[: max(1, round(len(words) / 3))].tolist():
        found[i] = pool[_below(len(pool), generator)]
    return found


def shuffle(words: Words, generator: torch.Generator | None = None) -> Words:
    """Put all words into a random order."""
    return [words[i] for i in torch.randperm(len(words), generator=generator).tolist()]


CORRUPTIONS: Final[dict[str, Callable[[Words, Sequence[str], torch.Generator | None], Words]]] = {
    "repeat": lambda words, _, generator: repeat(words, generator),
    "remove": lambda words, _, generator: remove(words, generator),
    "insert": insert,
    "swap": swap,
    "shuffle": lambda words, _, generator: shuffle(words, generator),
}
_NUM_TRIES: Final = 8


def corrupt(text: str, kind: str, pool: Sequence[str], generator: torch.Generator | None = None) -> str:
    """Corrupt a text.

    Args:
        text: a right text.
        kind: one of ``CORRUPTIONS``.
        pool: words that "insert" and "swap" draw from.
        generator: source of randomness.

    Returns:
        A text that differs from the given one. Where the kind cannot change it (one word to shuffle), it is
        repeated instead; the empty text stays as it is.

    Raises:
        ValueError: for an unknown kind, or an empty pool to draw from.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {kind!r}, choose from {sorted(CORRUPTIONS)}")
    if kind in ("insert", "swap") and not pool:
        raise ValueError(f"corruption {kind!r} needs a pool of words")
    words = text.split()
    if not words:
        return text
    if len(words) > 1 or kind not in ("remove", "shuffle"):
        for _ in range(_NUM_TRIES):
            found = CORRUPTIONS[kind](words, pool, generator)
            if found != words:
                return " ".join(found)
    return " ".join(repeat(words, generator))
