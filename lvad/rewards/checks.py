"""What a stage checks of a reward: nothing trains it, and its scores are finite before they reach a weight."""

from typing import Any

import torch
from torch import Tensor, nn

from lvad.errors import BrokenReward
from lvad.types import Scores

_SHOWN = 3


def frozen(judge: object, name: str) -> Any:
    """A judge whose weights are not trained, whatever its author left open.

    Raises:
        ValueError: if it is no module, which would stay on the CPU.
    """
    if not isinstance(judge, nn.Module):
        raise ValueError(f"{name} must be an nn.Module, got {type(judge).__name__}")
    return judge.requires_grad_(False)


def check_finite(scores: Scores, ids: list[str], drop: bool) -> tuple[Scores, Tensor]:
    """Refuse scores that are not finite, or take their scenes out.

    A whole scene is dropped, not a completion: the siblings' baseline would lack it, and a completion that breaks the
    judge would go unpunished and unrewarded beside them.

    Args:
        scores: of B scenes.
        ids: of the scenes.
        drop: take the scenes out instead of raising.

    Returns:
        The scores with zeros for the scenes that are out, and which are kept: bool[B].

    Raises:
        BrokenReward: naming scenes, terms and values.
    """
    is_fine = scores.total.isfinite()
    if bool(is_fine.all()):  # the one read of the device
        return scores, is_fine.all(1)
    if not drop:
        raise BrokenReward(_complaint(scores, ids))
    is_kept = is_fine.all(1)
    total = scores.total.masked_fill(~is_kept.unsqueeze(1), 0.0)
    terms = {name: term.masked_fill(~is_kept.unsqueeze(1), 0.0) for name, term in scores.terms.items()}
    return Scores(total, terms), is_kept


def _complaint(scores: Scores, ids: list[str]) -> str:
    broken = [(b, k) for b, k in (~scores.total.isfinite()).nonzero().tolist()]
    named = []
    for b, k in broken[:_SHOWN]:
        guilty = [name for name, term in scores.terms.items() if not torch.isfinite(term[b, k])] or ["the total"]
        values = [
            float(scores.terms[name][b, k]) if name in scores.terms else float(scores.total[b, k]) for name in guilty
        ]
        parts = ", ".join(f"{name} = {value}" for name, value in zip(guilty, values, strict=True))
        named.append(f"scene {ids[b]!r}, completion {k}: {parts}")
    more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
    return (
        f"the reward is not finite: {'; '.join(named)}{more}; mend the judge, or set regularisation.non_finite to drop "
        "to leave such scenes out and count them"
    )
