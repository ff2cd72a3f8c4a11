"""Regularisation of the policy gradient: the KL to the reference, and reward limits, penalties and rehearsal."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lvad.errors import BrokenReward, DataError
from lvad.losses.policy_gradient import kl_k1, kl_k2_loss, kl_k3_loss, next_beta
from lvad.objectives.rehearsal import Rehearsal
from lvad.ops import sequence_sum
from lvad.types import Rollouts, Scores

_SHOWN = 3


@dataclass(frozen=True)
class KL:
    """A penalty on KL(policy || reference), where the reference is the initial policy or its last refresh.

    The paper had none, and its policy forgot what it could say (section 6.3).

    Args:
        beta: reward per nat and completion; 0 measures the KL and does nothing else. The optimum of an unbiased
            estimator is p_ref exp(r / beta) / Z.
        form: ``reward`` subtracts beta k1 from the reward; ``k2`` adds a loss with the same mean gradient; ``k3``, as
            in GRPO, adds one whose gradient is that of KL(reference || policy) (``lvad.losses.policy_gradient``).
        target: adapt beta so that the KL reaches this many nats per completion; None keeps beta.
        rate: how fast beta is adapted, per training batch (Ziegler et al. 2019: 0.1).
        refresh_every: optimizer steps after which the policy becomes its own reference, once their rollout is used up;
            it then costs a second copy of the model. None keeps the initial policy.

    Raises:
        ValueError: for a beta that is negative or not finite, another form, a target or rate that is not positive, a
            target with beta 0, which no factor can raise, or ``refresh_every`` below 1.
    """

    beta: float = 0.05
    form: Literal["reward", "k2", "k3"] = "reward"
    target: float | None = None
    rate: float = 0.1
    refresh_every: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"kl.beta must be >= 0 and finite, got {self.beta}")
        if self.form not in ("reward", "k2", "k3"):
            raise ValueError(f"kl.form must be reward, k2 or k3, got {self.form!r}")
        if self.target is not None and not self.target > 0:
            raise ValueError(f"kl.target must be > 0 nats, or null to keep beta, got {self.target}")
        if not self.rate > 0:
            raise ValueError(f"kl.rate must be > 0, got {self.rate}")
        if self.target is not None and self.beta == 0:
            raise ValueError("kl.target cannot steer a beta of 0: start from a small one, such as 0.01")
        if self.refresh_every is not None and self.refresh_every < 1:
            raise ValueError(f"kl.refresh_every must be >= 1 step, or null, got {self.refresh_every}")


class AdaptiveKL:
    """A KL penalty with its present weight, which is adapted during training and is part of a checkpoint.

    Its numbers are Python floats. As buffers they would be read back from the device at every step, rounded where a
    strategy turns a module into 16 bits, and refused by devices without float64.

    Args:
        config: what is penalised and how.
    """

    def __init__(self, config: KL) -> None:
        self.config = config
        self.beta = config.beta
        self.refreshed_at = 0  # the optimizer step of the last refresh

    def state_dict(self) -> dict[str, float]:
        """Return the configured and the present weight, and when the reference was last refreshed."""
        return {"configured": self.config.beta, "beta": self.beta, "refreshed_at": self.refreshed_at}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what ``state_dict`` gave; the weight only if the configured one is still the same."""
        self.refreshed_at = int(state["refreshed_at"])
        if state["configured"] == self.config.beta:
            self.beta = float(state["beta"])

    def measure(self, logps: Tensor, ref_logps: Tensor, completion_mask: Tensor) -> Tensor:
        """Estimate the KL of each completion: k1, float[B, K], in nats."""
        return kl_k1(logps, ref_logps, completion_mask)

    def penalty(self, kl: Tensor) -> Tensor:
        """Return what is subtracted from the reward, float[B, K]."""
        return kl * self.beta if self.config.form == "reward" else torch.zeros_like(kl)

    def loss(self, logps: Tensor, ref_logps: Tensor, completion_mask: Tensor) -> Tensor:
        """Return what is added to the loss, float[], in the scale of ``reinforce``."""
        if self.config.form == "reward" or self.beta == 0:
            return logps.new_zeros(())
        term = kl_k2_loss if self.config.form == "k2" else kl_k3_loss
        return self.beta * term(logps, ref_logps, completion_mask)

    def adapt(self, kl: float) -> None:
        """Move beta towards the target, after a batch with a mean KL of that many nats per completion."""
        if self.config.target is not None:
            self.beta = next_beta(self.beta, kl, self.config.target, self.config.rate)

    def mark_refreshed(self, step: int) -> None:
        """Note that the reference was refreshed after that many optimizer steps."""
        self.refreshed_at = step

    def is_due(self, step: int) -> bool:
        """Whether the reference is to be refreshed after that many optimizer steps."""
        every = self.config.refresh_every
        return every is not None and step // every > self.refreshed_at // every


@dataclass(frozen=True)
class Regularisation:
    """Options of the policy gradient other than the KL: entropy bonus, rehearsal, updates per rollout, reward limits.

    Args:
        entropy_bonus: reward per nat of -log pi(completion), whose mean is the entropy of the policy.
        rehearsal: supervised cross-entropy on a few labelled scenes beside the policy gradient; None for none.
        updates: optimizer steps per rollout. The paper and the default: 1, on-policy. The later ones weight each
            completion with the ratio of its probabilities, clipped. ``trainer.max_steps``, the schedule of the
            learning rate and the step that is logged count rollouts.
        clip_epsilon: how far that ratio may go from 1.
        reward_limit: rewards beyond this distance from 0 are moved there before any penalty, so that one outlier cannot
            outweigh a batch; None for no limit. The logged rewards are those before.
        non_finite: what to do with a reward that is nan or infinite: ``error``, or ``drop`` its scene from the step
            and count it as ``reward/dropped``.

    Raises:
        ValueError: for a bonus that is negative or not finite, fewer than one update, a
            ``clip_epsilon`` outside (0, 1), a limit that is not positive, or another word for ``non_finite``.
    """

    entropy_bonus: float = 0.0
    rehearsal: Rehearsal | None = None
    updates: int = 1
    clip_epsilon: float = 0.2
    reward_limit: float | None = None
    non_finite: Literal["error", "drop"] = "error"

    def __post_init__(self) -> None:
        if not 0 <= self.entropy_bonus < math.inf:
            raise ValueError(f"entropy_bonus must be >= 0 and finite, got {self.entropy_bonus}")
        if self.updates < 1:
            raise ValueError(f"updates must be >= 1, got {self.updates}")
        if not 0 < self.clip_epsilon < 1:
            raise ValueError(f"clip_epsilon must be in (0, 1), got {self.clip_epsilon}")
        if self.reward_limit is not None and not self.reward_limit > 0:
            raise ValueError(f"reward_limit must be > 0, or null for no limit, got {self.reward_limit}")
        if self.non_finite not in ("error", "drop"):
            raise ValueError(f"non_finite must be error or drop, got {self.non_finite!r}")

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest reward; others are moved to the nearer limit."""
        limit = math.inf if self.reward_limit is None else self.reward_limit
        return -limit, limit

    def adjusted(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        """Clamp rewards float[B, K] to the limits, and add the entropy bonus of their completions."""
        rewards = rewards.clamp(*self.limits)
        if self.entropy_bonus:
            return rewards - self.entropy_bonus * sequence_sum(rollouts.logps, rollouts.completion_mask)
        return rewards

    def check_accumulation(self, accumulated: int) -> None:
        """Refuse several updates per rollout together with gradient accumulation over several rollouts.

        Raises:
            DataError: with the remedy.
        """
        if self.updates > 1 and accumulated > 1:
            raise DataError(
                "regularisation.updates makes several steps of one rollout, accumulate_grad_batches one step of "
                "several rollouts: set one of them to 1; policy.completions_at_once saves memory too"
            )


def check_finite(scores: Scores, ids: list[str], drop: bool) -> tuple[Scores, Tensor]:
    """Refuse scores that are not finite, or drop their scenes.

    A whole scene is dropped, not a completion: the siblings' baseline would lack it, and a completion that breaks the
    reward would go unpunished and unrewarded beside them.

    Args:
        scores: of B scenes.
        ids: of the scenes.
        drop: drop the scenes instead of raising.

    Returns:
        The scores, with zeros for dropped scenes, and which scenes are kept: bool[B].

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
        f"the reward is not finite: {'; '.join(named)}{more}; mend the reward, or set regularisation.non_finite to "
        "drop to leave such scenes out and count them"
    )
