"""How far a policy has gone from its reference: estimates of the KL from the policy's own completions.

All are for KL(pi || p_ref) with pi the sampled density, in nats per completion, d = log pi(y) - log p_ref(y).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvad.ops import sequence_sum


def kl_k1(
    logps: Float[Tensor, "B K T"], ref_logps: Float[Tensor, "B K T"], completion_mask: Bool[Tensor, "B K T"]
) -> Float[Tensor, "B K"]:
    """k1 = sum_t d_t of each completion, detached: unbiased, of either sign.

    Subtracted from the reward, its policy gradient is the gradient of the KL itself, so the optimum of reward less
    beta k1 is p_ref exp(r / beta) / Z.

    Source:
        Schulman 2020, "Approximating KL divergence"; as reward: Ouyang et al. 2022.
    """
    return sequence_sum(logps - ref_logps, completion_mask).detach()


def kl_k2_loss(
    logps: Float[Tensor, "B K T"], ref_logps: Float[Tensor, "B K T"], completion_mask: Bool[Tensor, "B K T"]
) -> Float[Tensor, ""]:
    """(1 / B) sum_b sum_k (sum_t d_t)^2 / 2, a loss with the right gradient and a biased value.

    Its gradient d grad log pi(y), over the completion as a whole, has the mean K grad KL(pi || p_ref): the same as
    k1 in the reward of an unbiased estimator, without the baseline that lowers its variance.

    Source:
        Schulman 2020 (k2).
    """
    return (sequence_sum(logps - ref_logps, completion_mask) ** 2 / 2).sum(1).mean()


def kl_k3_loss(
    logps: Float[Tensor, "B K T"], ref_logps: Float[Tensor, "B K T"], completion_mask: Bool[Tensor, "B K T"]
) -> Float[Tensor, ""]:
    """(1 / B) sum_b sum_k sum_t (exp(-d_t) - 1 + d_t), a loss with an unbiased value and another gradient.

    Each term is at least 0. Differentiated under completions that are held fixed, it has the mean gradient
    K grad KL(p_ref || pi), the other direction, of each token's law after what was said before it. The optimum with a
    reward is therefore not p_ref exp(r / beta) / Z; for one token it is beta p_ref / (lambda - r).

    Source:
        Schulman 2020 (k3); as loss: Shao et al. 2024 (arXiv:2402.03300), Eq. 4.
    """
    d = torch.where(completion_mask, logps - ref_logps, 0.0)
    return sequence_sum(torch.expm1(-d) + d, completion_mask).sum(1).mean()


def next_beta(beta: float, kl: float, target: float, rate: float) -> float:
    """The next weight of a KL term: heavier where the policy is too far from its reference, lighter where too near.

    It is beta (1 + rate * clip(kl / target - 1, -0.2, 0.2)).

    Args:
        beta: the present weight.
        kl: measured, nats per completion.
        target: wanted, the same unit.
        rate: per update; 0.1 in the source.

    Source:
        Ziegler et al. 2019 (arXiv:1909.08593), section 2.2.
    """
    return beta * (1 + rate * max(-0.2, min(0.2, kl / target - 1)))
