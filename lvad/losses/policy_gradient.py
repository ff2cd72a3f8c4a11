"""The policy gradient as a loss whose gradient is Eq. 1 of the paper."""

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


def kl_penalised(
    rewards: Float[Tensor, "B K"],
    logps: Float[Tensor, "B K T"],
    ref_logps: Float[Tensor, "B K T"],
    completion_mask: Bool[Tensor, "B K T"],
    beta: float,
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
    """Rewards less beta times the k1 estimate of the KL to the reference, and that estimate.

    k1 = sum_t (log q(y_t) - log p_ref(y_t)) is unbiased for KL(q || p_ref) in nats per completion; as a part
    of the reward its policy gradient is the gradient of the KL itself, so the optimum is p_ref exp(r / beta) / Z.

    Source:
        Schulman 2020, "Approximating KL divergence" (k1); as reward: Ouyang et al. 2022.
    """
    kl = sequence_sum(logps - ref_logps, completion_mask).detach()
    return rewards - beta * kl, kl
