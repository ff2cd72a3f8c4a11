"""Scores of texts against reference texts of the same scenes: corpus BLEU-4 and ROUGE-L."""

from collections.abc import Sequence
from functools import cache
from itertools import zip_longest
from typing import NamedTuple

import torch
from sacrebleu.metrics.bleu import BLEU
from torch import Tensor
from torchmetrics.functional.text import rouge_score

from lvad.metrics.fact_scores import FactCounts, fact_counts, fact_scores
from lvad.ranks import SceneRows


class CaptionedScene(NamedTuple):
    """The text that was generated for a scene, with its reference texts and its counts of facts."""

    text: str
    references: tuple[str, ...]
    """Reference texts, at least one."""
    facts: FactCounts | None
    """Counts of the text's facts; None where the facts of the scene are not known."""


@cache
def _bleu() -> BLEU:
    return BLEU(lowercase=True)


def corpus_bleu(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Compute BLEU-4 of a whole set by sacrebleu (13a tokens, exponential smoothing, case ignored), in 0 .. 1.

    With several references an n-gram counts if any of them has it, and the nearest of their lengths counts.

    Args:
        texts: S texts, at least one.
        references: reference texts of each of the S texts, at least one each.

    Raises:
        ValueError: without texts, or for a text without a reference.

    Source:
        Papineni et al. 2002; Post 2018 (sacrebleu).
    """
    _check(texts, references)
    return _bleu().corpus_score(list(texts), list(zip_longest(*references))).score / 100


def rouge_l(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Compute mean ROUGE-L F1 by torchmetrics, each text against the nearest of its references, in 0 .. 1.

    Words are runs of the letters a to z and of digits, case ignored, without stemming: texts in other scripts score 0.

    Args:
        texts: S texts, at least one.
        references: reference texts of each of the S texts, at least one each.

    Raises:
        ValueError: without texts, or for a text without a reference.

    Source:
        Lin 2004.
    """
    _check(texts, references)
    scores = rouge_score(list(texts), [list(row) for row in references], accumulate="best", rouge_keys="rougeL")
    return float(scores["rougeL_fmeasure"])


def _check(texts: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if not texts or len(texts) != len(references) or not all(references):
        raise ValueError(f"{len(texts)} texts need as many rows of references, at least one each")


class CaptionScore:
    """Metric of texts against their reference texts, over the scenes of all ranks; of their facts where known.

    ``compute`` returns, as float[] each: ``bleu4``, ``rouge_l``, and for synthetic scenes ``fact_precision``,
    ``fact_recall``, ``fact_all_right``, ``fact_claims_per_text``.
    """

    def __init__(self) -> None:
        self._rows = SceneRows[CaptionedScene]()

    def update(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        references: Sequence[tuple[str, ...]],
        facts: Sequence[dict[str, str] | None],
    ) -> None:
        """Add B scenes with one text each."""
        counts = [None if known is None else fact_counts(text, known) for text, known in zip(texts, facts, strict=True)]
        self._rows.add(ids, (CaptionedScene(*row) for row in zip(texts, references, counts, strict=True)))

    def compute(self) -> dict[str, Tensor]:
        """Compute the scores since the last reset; an empty dict without scenes."""
        rows = self._rows.gathered()
        if not rows:
            return {}
        texts, references = [row.text for row in rows], [row.references for row in rows]
        values = {
            "bleu4": torch.tensor(corpus_bleu(texts, references)),
            "rouge_l": torch.tensor(rouge_l(texts, references)),
        }
        if known := [row.facts for row in rows if row.facts is not None]:
            values |= {f"fact_{name}": value for name, value in fact_scores(known).items()}
        return values

    def reset(self) -> None:
        """Forget the scenes added so far."""
        self._rows.reset()
