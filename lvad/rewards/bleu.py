"""Sentence BLEU against the right texts of a scene, and with a threshold the paper's second reward."""

from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from sacrebleu.metrics.bleu import BLEU as SacreBLEU
from torch import nn

from lvad.text import render
from lvad.types import Batch, Rollouts, Scores


@cache
def _scorer() -> SacreBLEU:
    # Effective order, as sacrebleu advises for sentences: a text of three words has no 4-grams to miss.
    return SacreBLEU(effective_order=True)


def sentence_bleu(text: str, references: Sequence[str]) -> float:
    """Compute sentence BLEU-4 by sacrebleu (13a tokens, exponential smoothing, effective order), in 0 .. 1.

    With several references an n-gram counts if any of them has it, and the nearest of their lengths gives the brevity
    penalty.

    Args:
        text: the completion.
        references: right texts, at least one.

    Raises:
        ValueError: without a reference.

    Source:
        Papineni et al. 2002; Post 2018 (sacrebleu).
    """
    if not references:
        raise ValueError("sentence_bleu needs a reference")
    # Logarithms leave the score of the reference itself at 100.00000000000004.
    return min(1.0, _scorer().sentence_score(text, list(references)).score / 100)


def best_bleu(text: str, rights: Sequence[str]) -> float:
    """Return the largest sentence BLEU over right texts, each by itself, so that mixing two of them gains nothing."""
    return max(sentence_bleu(text, [right]) for right in rights)


class BLEU(nn.Module):
    """Sentence BLEU-4 with the nearest of a scene's right texts: a reward that needs labels.

    With a threshold this is the reward R^2 of Appendix A.3. The paper does not say whether a score equal to the
    threshold passes; here it does.

    BLEU counts words, not meaning. "Action: left." gets 0.35 for its format where stop is right, and "Action:
    forward. Reason: traffic light is green." passes the paper's threshold (0.52) where the light is not green. Combine
    it with a reward that judges the action.

    Args:
        target: the right texts, as stage 2 (``ActionSFT``) names them: ``action`` ("Action: stop."), ``answer``
            ("Action: stop. Reason: ..."), or ``caption`` (each of the scene's plain descriptions).
        threshold: pay 1 from this score on and 0 below it (the paper: 0.5); None pays the score itself.

    Raises:
        ValueError: for another ``target``, or a threshold outside (0, 1].
    """

    def __init__(
        self, target: Literal["action", "answer", "caption"] = "answer", threshold: float | None = None
    ) -> None:
        super().__init__()
        if target not in ("action", "answer", "caption"):
            raise ValueError(f"target must be action, answer or caption, got {target!r}")
        if threshold is not None and not 0 < threshold <= 1:
            raise ValueError(f"threshold must be in (0, 1], or null to pay the score itself, got {threshold}")
        self.target, self.threshold = target, threshold

    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        """Score the completions, float[B, K] in [0, 1]; the term ``bleu`` is before the threshold.

        Raises:
            ValueError: naming a scene without a right text.
        """
        rows = [self._right_texts(batch, i) for i in range(len(batch.ids))]
        scores = [[best_bleu(text, rights) for text in said] for said, rights in zip(rollouts.texts, rows, strict=True)]
        bleu = torch.tensor(scores, dtype=torch.float32, device=rollouts.logps.device)
        total = bleu if self.threshold is None else (bleu >= self.threshold).float()
        return Scores(total, {"bleu": bleu})

    def _right_texts(self, batch: Batch, i: int) -> tuple[str, ...]:
        if self.target == "caption":
            if not batch.captions[i]:
                raise ValueError(
                    f"scene {batch.ids[i]!r} has no caption for BLEU to compare with; use target action or answer, or "
                    "scenes with captions"
                )
            return batch.captions[i]
        actions, reasons = batch.actions[i].tolist(), batch.reasons[i].tolist()
        if min(actions + (reasons if self.target == "answer" else [])) < 0:
            raise ValueError(
                f"scene {batch.ids[i]!r} has no labels for BLEU to compare with; use a reward without labels, labelled "
                "scenes, or data.split.unlabelled=false"
            )
        return (render(actions, reasons if self.target == "answer" else None, batch.taxonomy),)
