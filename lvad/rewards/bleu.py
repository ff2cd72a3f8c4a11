"""BLEU as a score between 0 and 1."""

from collections.abc import Sequence
from functools import cache

from sacrebleu.metrics.bleu import BLEU as SacreBLEU


@cache
def _scorer() -> SacreBLEU:
    # Effective order, as sacrebleu advises for sentences: a text of three words has no 4-grams to miss.
    return SacreBLEU(effective_order=True)


def sentence_bleu(text: str, references: Sequence[str]) -> float:
    """Sentence BLEU-4 by sacrebleu (13a tokens, exponential smoothing, effective order), in 0 .. 1.

    Args:
        text: what was said.
        references: right texts, at least one.

    Raises:
        ValueError: without a reference.

    Source:
        Papineni et al. 2002; Post 2018 (sacrebleu).
    """
    if not references:
        raise ValueError("sentence_bleu needs a reference")
    return _scorer().sentence_score(text, list(references)).score / 100
