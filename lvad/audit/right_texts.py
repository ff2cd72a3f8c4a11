"""The right text of every scene, and whether another text is known to be wrong of it."""

from collections.abc import Iterable
from functools import cache
from typing import Final, Literal, get_args

import torch

from lvad.data.pairs import TEXT_KINDS, Candidates, candidates, mirrored_candidates, sample_pairs
from lvad.errors import DataError
from lvad.facts import claims, is_true
from lvad.text import mirror_text
from lvad.types import Batch

TextSource = Literal["reason", "action", "output", "caption"]
TEXT_SOURCES: Final[tuple[TextSource, ...]] = get_args(TextSource)
GIVEN: Final = "given"
"""The source of texts that the caller brings."""


def merge_batches(batches: Iterable[Batch]) -> Batch:
    """Merge all N scenes into one batch, on the CPU and without their frames.

    Raises:
        DataError: if there is no scene.
    """
    found = list(batches)
    if not found:
        raise DataError("no scenes to audit a reward on")
    return Batch(
        ids=[name for batch in found for name in batch.ids],
        frames=[],
        actions=torch.cat([batch.actions.cpu() for batch in found]),
        reasons=torch.cat([batch.reasons.cpu() for batch in found]),
        captions=[captions for batch in found for captions in batch.captions],
        facts=[facts for batch in found for facts in batch.facts],
        recordings=[recording for batch in found for recording in batch.recordings],
        taxonomy=found[0].taxonomy,
    )


class RightTexts:
    """One right text per scene; any other text is compared with the labels or the facts of a scene.

    Args:
        scenes: N scenes without frames.
        source: a text source, or N texts.
        generator: draws one of the true texts of a scene with several.

    Attributes:
        source: a text source, or ``GIVEN``.
        texts: N texts, blank where a scene has none.
        found: the candidate texts of the source; None for captions and given texts.

    Raises:
        DataError: if the scenes lack what the source speaks of.
        ValueError: for an unknown source, or another number of texts than scenes.
    """

    def __init__(self, scenes: Batch, source: TextSource | list[str], generator: torch.Generator) -> None:
        self.scenes = scenes
        self.source = source if isinstance(source, str) else GIVEN
        self.found: Candidates | None = None
        if not isinstance(source, str):
            if len(source) != len(scenes.ids):
                raise ValueError(f"texts must hold one text per scene, got {len(source)} for {len(scenes.ids)} scenes")
            self.texts = list(source)
        elif source == "caption":
            self.texts = _captions(scenes)
        elif source in TEXT_KINDS:
            self.found = candidates(source, scenes)
            self.texts = _drawn(self.found, generator)
            self._index = {text: c for c, text in enumerate(self.found.texts)}
            self._mirror_images = mirrored_candidates(source, scenes.taxonomy)
            self._is_true, self._is_false = self.found.is_true.tolist(), self.found.is_false.tolist()
        else:
            raise ValueError(f"texts must be one of {TEXT_SOURCES} or a list, got {source!r}")

    def is_wrong(self, text: str, scene: int, wholly: bool) -> bool | None:
        """Whether a text is wrong of a scene, None where nothing is known of it.

        Args:
            text: a candidate of the source; any text where the source has none.
            scene: index.
            wholly: whether an output with one true half passes as not wrong. A text without candidates is wrong as
                soon as one of its claims is.
        """
        if self.found is not None:
            column = self._index[text]
            return self._is_false[scene][column] if wholly else not self._is_true[scene][column]
        facts = self.scenes.facts[scene]
        return None if facts is None else any(not is_true(claim, facts) for claim in _claims(text))

    def mirrored(self, text: str) -> str:
        """Return a text with left and right exchanged; for a candidate this is its mirror partner."""
        if self.found is None:
            return mirror_text(text)
        return self.found.texts[self._mirror_images[self._index[text]]]

    def says_other(self, text: str, scene: int) -> bool:
        """Whether a text is wrong of a scene; where nothing is known, whether it differs from the scene's own text."""
        is_wrong = self.is_wrong(text, scene, wholly=True)
        if is_wrong is not None:
            return is_wrong
        own = self.texts[scene]
        said = set(_claims(text))
        return bool(said - set(_claims(own))) if said else text.lower().split() != own.lower().split()

    def swap_partners(self, generator: torch.Generator) -> list[int | None]:
        """Pair scenes whose texts are wrong of each other: N partners, None for a scene that is left over.

        In pairs the same texts are right and wrong, so a reward that ignores the image gains nothing. A text drawn
        freely among the wrong ones would be rarer than the right text, and a reward that prefers frequent texts would
        seem to use the image.
        """
        partners: list[int | None] = [None] * len(self.texts)
        waiting: list[int] = []
        for i in torch.randperm(len(self.texts), generator=generator).tolist():
            if not self.texts[i].strip():
                continue
            for j in waiting:
                if self.says_other(self.texts[j], i) and self.says_other(self.texts[i], j):
                    partners[i], partners[j] = j, i
                    waiting.remove(j)
                    break
            else:
                waiting.append(i)
        return partners


@cache
def _claims(text: str) -> tuple[tuple[str, str], ...]:
    return tuple(claims(text))


def _captions(scenes: Batch) -> list[str]:
    lacking = [name for name, captions in zip(scenes.ids, scenes.captions, strict=True) if not captions]
    if lacking:
        remedy = "captions come with synthetic scenes; take texts of the labels, such as 'reason'"
        raise DataError(f"scenes without captions: {lacking[:5]}; {remedy}")
    return [captions[-1] for captions in scenes.captions]  # the last one tells all that matters


def _drawn(found: Candidates, generator: torch.Generator) -> list[str]:
    pairs = sample_pairs(found, 1, generator)
    texts = [""] * len(found.is_true)
    for row, column in zip(pairs.rows.tolist(), pairs.texts[:, 0].tolist(), strict=True):
        texts[row] = found.texts[column]
    return texts
