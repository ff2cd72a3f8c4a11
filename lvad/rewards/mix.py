"""Combine several rewards: the weighted sum of different ones, or the mean or minimum of several of one kind."""

import math
import warnings
from typing import Final, Literal, cast

import torch
from torch import Tensor, nn

from lvad.types import Batch, Reward, Rollouts, Scores

# What the stages log beside the terms, as reward/mean and reward/best.
_TAKEN_NAMES: Final = ("mean", "best")
# Of a part's largest score: what rounding alone may spread.
_NO_SPREAD: Final = 1e-6


def _check_name(name: str) -> None:
    if not name.isidentifier() or name in _TAKEN_NAMES or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"parts cannot have the name {name!r}: it must be a plain word that is neither one of {_TAKEN_NAMES} nor "
            "a method of torch's modules"
        )


def check_part(name: str, part: Reward) -> None:
    """Refuse a part that is no module, or that hides a ``Mix`` with ``normalise``.

    Raises:
        ValueError: naming it.
    """
    if not isinstance(part, nn.Module):
        raise ValueError(f"reward {name!r} must be an nn.Module, got {type(part).__name__}: else it stays on the CPU")
    if any(isinstance(module, Mix) and module.normalise for module in part.modules()):
        raise ValueError(
            f"reward {name!r} holds a Mix with normalise, which only the outermost reward may have: nobody would "
            "measure its scales"
        )


def _ask(reward: nn.Module, batch: Batch, rollouts: Rollouts) -> Scores:
    return cast(Reward, reward).score(batch, rollouts)


class Mix(nn.Module):
    """A reward that is the weighted sum of several.

    The terms are each part's total under the part's name, before weighting and scaling, and its own terms as
    ``name/term`` where it has several. A part of weight 0 is logged but not paid, and may be NaN or infinite; such a
    score of a paid part makes the total NaN or infinite, which the training module handles.

    ``normalise`` brings parts of different spread to one scale: each total is divided by its root mean square deviation
    among siblings, which is measured once, under the starting policy, and then fixed. A scale that followed the batch
    would change the reward at each step, and a completion's own score would enter the scale that it is compared by,
    which biases the estimators. Before ``calibrate`` the scales are one.

    Args:
        parts: the rewards by name.
        weights: one finite number per part; a penalty (at most 0 by itself) has a positive weight too.
        normalise: divide each part by its scale, so that equal weights mean equal influence.

    Raises:
        ValueError: without parts, for weights that do not name exactly the parts or are not finite, for a part that
            is no ``nn.Module`` or holds a normalised ``Mix``, and for a name that cannot be logged.
    """

    keeps_buffers: Final = True
    """Tells the training module to save the buffers in checkpoints, because the scales are measured by the run."""

    scales: Tensor
    is_calibrated: Tensor

    def __init__(self, parts: dict[str, Reward], weights: dict[str, float], normalise: bool = False) -> None:
        super().__init__()
        if not parts or parts.keys() != weights.keys():
            raise ValueError(
                f"Mix needs a weight for each part, and a part at least: got parts {sorted(parts)} and weights "
                f"{sorted(weights)}"
            )
        for name, part in parts.items():
            _check_name(name)
            check_part(name, part)
        endless = {name: weight for name, weight in weights.items() if not math.isfinite(weight)}
        if endless:
            raise ValueError(f"weights must be finite, got {endless}")
        self.parts = nn.ModuleDict(cast(dict[str, nn.Module], parts)).requires_grad_(False)
        self.weights = {name: float(weights[name]) for name in parts}
        self.normalise = normalise
        # Without normalise there is nothing to measure, and no checkpoint to tell a later run that it was.
        self.register_buffer("scales", torch.ones(len(parts)), persistent=normalise)  # float[N], N parts
        self.register_buffer("is_calibrated", torch.tensor(not normalise), persistent=normalise)
        self.eval()

    def train(self, mode: bool = True) -> "Mix":
        """Stay in evaluation mode: a reward must not change during training."""
        return super().train(False)

    @torch.no_grad()
    def calibrate(self, batch: Batch, rollouts: Rollouts) -> None:
        """Measure the scale of each part once; does nothing without ``normalise`` or where the scales are known.

        The scale is sqrt(mean over scenes of the unbiased variance among the K siblings). Scenes with a score that is
        not finite are left out. A part that scores all siblings alike keeps scale 1, with a warning.

        Args:
            batch: scenes.
            rollouts: K >= 2 completions of each, by the starting policy.

        Raises:
            ValueError: for fewer than two completions per scene, and naming a part without a scene of finite scores.
        """
        if self.is_calibrated:
            return
        measured = [
            _sibling_deviation(name, _ask(part, batch, rollouts).total, self.weights[name])
            for name, part in self.parts.items()
        ]
        self.scales.copy_(torch.tensor(measured))
        self.is_calibrated.fill_(True)

    @torch.no_grad()
    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        """Score the completions, float[B, K] in the parts' units, without unit with ``normalise``."""
        terms, total = {}, torch.zeros(())
        for (name, part), scale in zip(self.parts.items(), self.scales, strict=True):
            scores = _ask(part, batch, rollouts)
            # Not 0 * NaN, which is NaN.
            paid = self.weights[name] * scores.total if self.weights[name] else torch.zeros_like(scores.total)
            total = paid / scale.to(paid) + total if self.normalise else paid + total
            terms[name] = scores.total
            if len(scores.terms) > 1:
                terms |= {f"{name}/{term}": values for term, values in scores.terms.items()}
        return Scores(total, terms)


def _sibling_deviation(name: str, total: Tensor, weight: float) -> float:
    """Compute the root mean square deviation among siblings of float[B, K]; 1 where there is none."""
    if total.shape[1] < 2:
        raise ValueError(f"Mix needs at least 2 completions per scene to calibrate, got {total.shape[1]}")
    total = total.cpu().double()  # in this order: not every device has float64
    known = total[total.isfinite().all(1)]
    if not len(known):
        if not weight:
            return 1.0
        raise ValueError(f"Mix cannot measure the scale of part {name!r}: in no scene are all its scores finite")
    deviation = float(known.var(1).mean().sqrt())
    if deviation > _NO_SPREAD * float(known.abs().max()):
        return deviation
    warnings.warn(f"part {name!r} gives all completions of a scene the same: its scale stays 1", stacklevel=3)
    return 1.0


class Ensemble(nn.Module):
    """The mean or the lowest score of several rewards on the same scale.

    A completion that one reward overrates another may not, so the minimum is harder to deceive. The terms are each
    member's total as ``member_0``, ``member_1``, ... and ``disagreement``, their standard deviation (denominator: the
    members). Where any member is NaN or infinite the total is NaN, which a minimum would hide.

    Args:
        members: the rewards, such as CLIPs of different seeds; at least two.
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
            check_part(f"member_{i}", member)
        if aggregate not in ("mean", "worst"):
            raise ValueError(f"aggregate must be mean or worst, got {aggregate!r}")
        self.members = nn.ModuleList(cast(list[nn.Module], members)).requires_grad_(False)
        self.aggregate = aggregate
        self.eval()

    def train(self, mode: bool = True) -> "Ensemble":
        """Stay in evaluation mode: a reward must not change during training."""
        return super().train(False)

    @torch.no_grad()
    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        """Score the completions, float[B, K] in the members' unit; NaN where a member is not finite."""
        verdicts = {f"member_{i}": _ask(member, batch, rollouts).total for i, member in enumerate(self.members)}
        each = torch.stack(list(verdicts.values()))  # float[N, B, K], N members
        total = each.mean(0) if self.aggregate == "mean" else each.amin(0)
        total = total.where(each.isfinite().all(0), torch.nan)
        return Scores(total, verdicts | {"disagreement": each.std(0, correction=0)})
