"""The policy gradient as a loss whose gradient is Eq. 1 of the paper, and its form for rollouts that are used again."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvad.ops import sequence_sum


def reinforce(
    logps: Float[Tensor, "B K T"],
    advantages: Float[Tensor, "B K"],
    completion_mask: Bool[Tensor, "B K T"],
) -> Float[Tensor, ""]:
    """Negative REINFORCE objective, summed over the K completions and averaged over the B scenes.

    -(1 / B) sum_b sum_i A_bi log pi(T_bi | I_b), where log pi of a completion is the *sum* over its tokens: a
    long completion is one action of the bandit and is not divided by its length.

    Args:
        logps: differentiable log-probabilities in the density that was sampled from.
        advantages: weights; no gradient flows through them.
        completion_mask: True on sampled tokens.

    Source:
        Eq. 1 of the paper, with the expectation over images estimated by the mean over the batch.
    """
    return -(advantages.detach() * sequence_sum(logps, completion_mask)).sum(1).mean()


def clipped_surrogate(
    logps: Float[Tensor, "B K T"],
    drawn_logps: Float[Tensor, "B K T"],
    advantages: Float[Tensor, "B K"],
    completion_mask: Bool[Tensor, "B K T"],
    clip: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """``reinforce`` for rollouts that an earlier state of the policy drew: the loss, and the share that is clipped.

    -(1 / B) sum_b sum_i min(w A, clamp(w, 1 - clip, 1 + clip) A), with w = pi(T_bi) / pi_drawn(T_bi) the ratio of the
    whole completions in the sampled density: one completion is one action. Where the policy has not moved w is 1 and
    the gradient is that of ``reinforce``.

    Args:
        logps: differentiable, in the sampled density.
        drawn_logps: the same when the completions were drawn.
        advantages: weights; no gradient flows through them.
        completion_mask: True on sampled tokens.
        clip: how far w may go from 1 before a completion stops pushing further.

    Source:
        Schulman et al. 2017 (arXiv:1707.06347), Eq. 7; per completion as in Ahmadian et al. 2024 (arXiv:2402.14740).
    """
    weights = advantages.detach()
    ratio = sequence_sum(logps - drawn_logps.detach(), completion_mask).exp()
    free, held = ratio * weights, ratio.clamp(1 - clip, 1 + clip) * weights
    return -torch.minimum(free, held).sum(1).mean(), (held < free).float().mean()
