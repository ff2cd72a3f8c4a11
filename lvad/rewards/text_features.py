"""Features of a text for a linear reader: its words and pairs of words, and its CLIP embedding."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn

from lvad.rewards.clip import CLIP

_WORD: Final = re.compile(r"\w+")
_MAX_TERMS: Final = 2000
_LEAST_SCENES: Final = 2
_AT_ONCE: Final = 256


def terms_of(text: str) -> set[str]:
    """Return the words of a text and its pairs of neighbouring words, in lower case."""
    words = _WORD.findall(text.casefold())
    return {*words, *(f"{first} {second}" for first, second in pairwise(words))}


def choose_vocabulary(scenes: Iterable[Sequence[str]]) -> list[str]:
    """Choose the terms that occur in at least two scenes, at most the 2,000 most common, in alphabetical order.

    Args:
        scenes: the texts of each scene.
    """
    counts = Counter(term for texts in scenes for term in set().union(*map(terms_of, texts)))
    common = sorted((-count, term) for term, count in counts.items() if count >= _LEAST_SCENES)
    return sorted(term for _, term in common[:_MAX_TERMS])


class TextFeatures(nn.Module):
    """Features of texts: 1 for each term of a vocabulary that the text has, else 0, and the CLIP embedding if given.

    The embedding, a unit vector, is multiplied by the square root of its size, so that its entries are as large as the
    others.

    Args:
        vocabulary: terms, as ``terms_of`` gives them.
        clip: the CLIP that embeds the texts; None for words only.
    """

    def __init__(self, vocabulary: Sequence[str], clip: CLIP | None = None) -> None:
        super().__init__()
        self.vocabulary, self.clip = list(vocabulary), clip
        self._column = {term: i for i, term in enumerate(self.vocabulary)}

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor:
        """Compute the features of N texts, float64[N, D] on the CPU: not every device has float64, and D is small."""
        found = torch.zeros(len(texts), len(self.vocabulary), dtype=torch.float64)
        for row, text in enumerate(texts):
            found[row, [self._column[term] for term in terms_of(text) if term in self._column]] = 1.0
        if self.clip is None:
            return found
        parts = [self.clip.embed_texts(list(texts[i : i + _AT_ONCE])) for i in range(0, len(texts), _AT_ONCE)]
        embedded = torch.cat(parts).cpu().double()
        return torch.cat([found, embedded * embedded.shape[1] ** 0.5], 1)
