"""Several judges as one: a weighted sum of different ones, or the verdict of several of a kind."""

import math
from typing import Literal, cast

import torch
from torch import nn

from lvad.types import Batch, Reward, Rollouts, Scores

# What the stages log beside the terms, as reward/mean and reward/best.
_TAKEN_NAMES = ("mean", "best")


def _check_name(name: str) -> None:
    if not name.isidentifier() or name in _TAKEN_NAMES or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"parts cannot have the name {name!r}: it must be a plain word that is neither one of {_TAKEN_NAMES} nor "
            "a method of torch's modules"
        )


def _check_judge(name: str, judge: Reward) -> None:
    if not isinstance(judge, nn.Module):
        raise ValueError(f"reward {name!r} must be an nn.Module, got {type(judge).__name__}: else it stays on the CPU")


def _ask(name: str, judge: nn.Module, batch: Batch, rollouts: Rollouts) -> Scores:
    scores = cast(Reward, judge).score(batch, rollouts)
    if num_broken := int((~scores.total.isfinite()).sum()):
        raise ValueError(f"reward {name!r} gave {num_broken} scores that are not finite")
    return scores


class Mix(nn.Module):
    """The weighted sum of its parts.

    The terms are each part's total under the part's name, before weighting, and its own terms as ``name/term`` where
    it has several. A part of weight 0 is watched without being paid.

    Args:
        parts: the judges by name.
        weights: one finite number per part; a penalty (at most 0 by itself) has a positive weight too.

    Raises:
        ValueError: without parts, for weights that do not name exactly the parts or are not finite, for a part that
            is no ``nn.Module``, and for a name that cannot be logged.
    """

    def __init__(self, parts: dict[str, Reward], weights: dict[str, float]) -> None:
        super().__init__()
        if not parts or parts.keys() != weights.keys():
            raise ValueError(
                f"Mix needs a weight for each part, and a part at least: got parts {sorted(parts)} and weights "
                f"{sorted(weights)}"
            )
        for name, part in parts.items():
            _check_name(name)
            _check_judge(name, part)
        endless = {name: weight for name, weight in weights.items() if not math.isfinite(weight)}
        if endless:
            raise ValueError(f"weights must be finite, got {endless}")
        self.parts = nn.ModuleDict(cast(dict[str, nn.Module], parts)).requires_grad_(False)
        self.weights = {name: float(weights[name]) for name in parts}
        self.eval()

    def train(self, mode: bool = True) -> "Mix":
        """Stay in evaluation mode: a judge does not change while it judges."""
        return super().train(False)

    @torch.no_grad()
    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        """float[B, K], in the sum of the parts' units.

        Raises:
            ValueError: naming a part with scores that are not finite.
        """
        terms, total = {}, torch.zeros(())
        for name, part in self.parts.items():
            scores = _ask(name, part, batch, rollouts)
            total = self.weights[name] * scores.total + total
            terms[name] = scores.total
            if len(scores.terms) > 1:
                terms |= {f"{name}/{term}": values for term, values in scores.terms.items()}
        return Scores(total, terms)


class Ensemble(nn.Module):
    """The mean or the worst verdict of several judges on the same scale.

    What one judge overrates another may not: the worst is the harder to deceive. The terms are each member's total
    as ``member_0``, ``member_1``, ... and ``disagreement``, their standard deviation (denominator: the members).

    Args:
        members: the judges, such as CLIPs of different seeds; at least two.
        aggregate: ``mean``, or ``worst``, the minimum.

    Raises:
        ValueError: for fewer than two members, for a member that is no ``nn.Module``, and for another ``aggregate``.

    Source:
        Coste et al. 2024 (arXiv:2310.02743), mean and worst-case optimization.
    """

    def __init__(self, members: list[Reward], aggregate: Literal["mean", "worst"] = "mean") -> None:
        super().__init__()
        if len(members) < 2:
            raise ValueError(f"an ensemble needs at least 2 members, got {len(members)}")
        for i, member in enumerate(members):
            _check_judge(f"member_{i}", member)
        if aggregate not in ("mean", "worst"):
            raise ValueError(f"aggregate must be mean or worst, got {aggregate!r}")
        self.members = nn.ModuleList(cast(list[nn.Module], members)).requires_grad_(False)
        self.aggregate = aggregate
        self.eval()

    def train(self, mode: bool = True) -> "Ensemble":
        """Stay in evaluation mode: a judge does not change while it judges."""
        return super().train(False)

    @torch.no_grad()
    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        """float[B, K] in the members' unit.

        Raises:
            ValueError: naming a member with scores that are not finite: a minimum would hide or spread them.
        """
        verdicts = {f"member_{i}": _ask(f"member_{i}", m, batch, rollouts).total for i, m in enumerate(self.members)}
        each = torch.stack(list(verdicts.values()))  # float[N, B, K], N members
        total = each.mean(0) if self.aggregate == "mean" else each.amin(0)
        return Scores(total, verdicts | {"disagreement": each.std(0, correction=0)})
