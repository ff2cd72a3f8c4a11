"""Image-text pairs for the reward model (Appendix B.2 of the paper)."""

from functools import cache
from typing import Final, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lvad.errors import DataError
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.text import render
from lvad.types import UNLABELLED, Batch

TextKind = Literal["reason", "action", "output"]
TEXT_KINDS: Final[tuple[TextKind, ...]] = get_args(TextKind)


class Candidates(NamedTuple):
    """The C texts of one kind, and for each scene which of them are true and which are false."""

    texts: tuple[str, ...]
    is_true: Tensor
    """bool[B, C], True where all that the text says is true of the scene."""
    is_false: Tensor
    """bool[B, C], True where nothing that it says is true; an output with one true half is neither true nor false."""


class Pairs(NamedTuple):
    """S scenes with one right text and N wrong ones each."""

    rows: Tensor
    """int64[S], indices of scenes."""
    texts: Tensor
    """int64[S, 1 + N], indices of candidate texts, the right one first."""


@cache
def candidate_texts(kind: TextKind, taxonomy: Taxonomy = BDD_OIA) -> tuple[str, ...]:
    """List the texts of a kind: R reasons, A actions ("Action: stop."), or A x R outputs of one action and reason."""
    actions = torch.eye(taxonomy.num_actions, dtype=torch.int64).tolist()
    if kind == "reason":
        return taxonomy.reason_texts
    if kind == "action":
        return tuple(render(action, None, taxonomy) for action in actions)
    if kind == "output":
        reasons = torch.eye(taxonomy.num_reasons, dtype=torch.int64).tolist()
        return tuple(render(action, reason, taxonomy) for action in actions for reason in reasons)
    raise ValueError(f"text kind must be one of {TEXT_KINDS}, got {kind!r}")


def candidates(kind: TextKind, batch: Batch) -> Candidates:
    """Find out by the labels which texts of a kind are true of which scenes.

    Args:
        kind: the kind of texts.
        batch: B scenes; their frames are not used.

    Raises:
        DataError: if a scene lacks the labels that the kind speaks of.
    """
    actions, reasons = batch.actions, batch.reasons
    needed = {"reason": {"reasons": reasons}, "action": {"actions": actions}}
    for what, labels in needed.get(kind, {"actions": actions, "reasons": reasons}).items():
        if (lacking := (labels == UNLABELLED).any(1)).any():
            names = [name for name, is_lacking in zip(batch.ids, lacking.tolist(), strict=True) if is_lacking]
            remedy = "take labelled scenes (data.split.unlabelled false), or a text kind that the labels have"
            raise DataError(f"scenes without {what}, which text kind {kind!r} needs: {names[:5]}; {remedy}")
    texts = candidate_texts(kind, batch.taxonomy)
    if kind == "output":
        action, reason = actions.bool()[:, :, None], reasons.bool()[:, None, :]
        return Candidates(texts, (action & reason).flatten(1), (~action & ~reason).flatten(1))
    is_true = (reasons if kind == "reason" else actions).bool()
    return Candidates(texts, is_true, ~is_true)


@cache
def mirrored_candidates(kind: TextKind, taxonomy: Taxonomy = BDD_OIA) -> tuple[int, ...]:
    """Give for each candidate the index of the one with left and right exchanged; its own where it names no side."""
    if kind == "reason":
        return taxonomy.mirrored_reasons
    if kind == "action":
        return taxonomy.mirrored_actions
    num_reasons, reasons = taxonomy.num_reasons, taxonomy.mirrored_reasons
    return tuple(action * num_reasons + reason for action in taxonomy.mirrored_actions for reason in reasons)


def sample_pairs(found: Candidates, num_negatives: int, generator: torch.Generator | None = None) -> Pairs:
    """Draw a right text and N wrong ones for each scene, wrong in every part.

    The paper draws "a different reason" as the wrong one; in a multi-label set that one may be true as well. A
    scene without a right or without a wrong text is left out. Wrong texts repeat only where a scene has fewer
    than N.

    Raises:
        ValueError: if ``num_negatives`` is below 1.
    """
    if num_negatives < 1:
        raise ValueError(f"num_negatives must be at least 1, got {num_negatives}")
    rows = (found.is_true.any(1) & found.is_false.any(1)).nonzero().squeeze(1)
    right = _random_order(found.is_true[rows], generator)[:, :1]
    wrong = _random_order(found.is_false[rows], generator)
    count = found.is_false[rows].sum(1, keepdim=True)  # int64[S, 1], the first so many of ``wrong`` are false
    turn = torch.arange(num_negatives, device=wrong.device).expand(len(rows), -1) % count
    return Pairs(rows, torch.cat([right, wrong.gather(1, turn)], 1))


def _random_order(allowed: Tensor, generator: torch.Generator | None) -> Tensor:
    """Put the columns of each row into random order, the allowed ones first: int64[S, C]."""
    noise = torch.rand(allowed.shape, generator=generator).to(allowed.device)
    return torch.where(allowed, noise, 2.0).argsort(1)
