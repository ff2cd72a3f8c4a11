"""The target texts of stage 2, and their length in tokens."""

from collections.abc import Sequence
from typing import Final, Literal

import torch

from lvad.errors import DataError
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.text import render
from lvad.types import UNLABELLED, Batch, Policy, Scene

Target = Literal["action", "answer", "caption"]

MOST_COUNTED: Final = 2048
"""The most texts whose tokens are counted; with more, these stand for all."""


def label_texts(target: Target | None, scenes: Sequence[Scene], taxonomy: Taxonomy = BDD_OIA) -> list[str]:
    """List every target text of scenes with labels or captions; none for a stage that learns no texts."""
    if target == "caption":
        return [caption for scene in scenes for caption in scene.captions]
    if target is None:
        return []
    rows = [(scene.actions, scene.reasons) for scene in scenes if scene.actions is not None]
    return [render(actions, reasons if target == "answer" else None, taxonomy) for actions, reasons in rows]


def mean_tokens(policy: Policy, texts: list[str]) -> float:
    """Count the tokens of a text with its end, on average over the first texts."""
    counted = texts[:MOST_COUNTED]
    return policy.targets([counted]).completion_mask.sum().item() / len(counted)


def target_texts(target: Target, batch: Batch, num_targets: int = 1) -> list[list[str]]:
    """Make B rows of target texts, as many in each.

    Raises:
        DataError: for a scene without labels, or without captions.
    """
    if target == "caption":
        return [draw_captions(*scene, num_targets) for scene in zip(batch.ids, batch.captions, strict=True)]
    texts = []
    for name, actions, reasons in zip(batch.ids, batch.actions.tolist(), batch.reasons.tolist(), strict=True):
        if UNLABELLED in actions:
            raise DataError(f"scene {name} has no labels; set data.split.unlabelled false, and no data.source.footage")
        texts.append([render(actions, reasons if target == "answer" else None, batch.taxonomy)])
    return texts


def draw_captions(name: str, captions: Sequence[str], count: int) -> list[str]:
    """Draw ``count`` captions of a scene, without repetition as long as there are enough.

    Raises:
        DataError: without any.
    """
    if not captions:
        remedy = "give it a text, leave it out, or choose target: action or answer"
        raise DataError(f"scene {name} has no text to learn or to compare with; {remedy}")
    order = torch.randperm(max(len(captions), count))[:count]
    return [captions[int(i) % len(captions)] for i in order]
