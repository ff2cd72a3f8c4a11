"""The mathematics of the policy gradient: advantages from rewards, the loss that they weight, and the KL term.

1. Advantages: what each completion's log-probability is weighted with. With the weights A_bk the loss of ``reinforce``
   is -(1/B) sum_b sum_k A_bk log pi(T_bk | I_b): a sum over the K completions of a scene (as in Eq. 1 of the paper) and
   a mean over scenes. "Unbiased" below says what the mean of its negative gradient over all draws is, in multiples of
   g = grad E[R].
2. The loss: its gradient is Eq. 1 of the paper; and its form for rollouts that are used again.
3. The KL: how far a policy has gone from its reference, estimated from the policy's own completions. All are for
   KL(pi || p_ref) with pi the sampled distribution, in nats per completion, d = log pi(y) - log p_ref(y).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvad.ops import sequence_sum


def over_baseline(rewards: Float[Tensor, "B K"], baseline: Float[Tensor, " B"]) -> Float[Tensor, "B K"]:
    """R_bk - b_b with a baseline that does not depend on the scene's K completions.

    Unbiased: the mean is K g whatever the baseline; it changes the variance alone. Zero is REINFORCE (Williams 1992),
    the mean of earlier rewards its usual form, the reward of the greedy completion SCST, a critic's estimate A2C.

    Args:
        rewards: one scalar per completion.
        baseline: one per scene, in the rewards' unit.

    Source:
        Williams 1992; Rennie et al. 2017 (arXiv:1612.00563), Eq. 8; Konda and Tsitsiklis 1999.
    """
    return rewards - baseline.unsqueeze(1)


def leave_one_out(rewards: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Advantage of each completion over the mean of its K - 1 siblings.

    R_i - mean_{j != i} R_j = (K R_i - sum_j R_j) / (K - 1). The baseline does not depend on completion i. Unbiased:
    the mean is K g.

    Args:
        rewards: one scalar per completion, any range.

    Returns:
        Advantages in the rewards' unit; each row sums to zero.

    Raises:
        ValueError: if K < 2; a completion without siblings has no baseline.

    Source:
        Eq. 1 of the paper; Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!".
    """
    num_completions = _group_size(rewards, "leave-one-out")
    rewards = _minus_the_first(rewards)
    return (num_completions * rewards - rewards.sum(1, keepdim=True)) / (num_completions - 1)


def group_relative(rewards: Float[Tensor, "B K"], scale_by_std: bool, epsilon: float = 1e-4) -> Float[Tensor, "B K"]:
    """Subtract the mean of each group, the completion itself included; divide by its standard deviation if asked.

    Unscaled it is (K - 1) / K times ``leave_one_out``: the mean is (K - 1) g, unbiased but for that factor. Scaled it
    is biased: scenes whose rewards differ little weigh as much as those whose rewards differ a lot.

    Args:
        rewards: one scalar per completion.
        scale_by_std: divide by the group's standard deviation (denominator K - 1) plus epsilon.
        epsilon: in the rewards' unit.

    Raises:
        ValueError: if K < 2.

    Source:
        Shao et al. 2024 (arXiv:2402.03300), section 4.1 (scaled); Liu et al. 2025 (arXiv:2503.20783), Dr. GRPO.
    """
    _group_size(rewards, "a group")
    rewards = _minus_the_first(rewards)
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, keepdim=True) + epsilon) if scale_by_std else centred


def best_of_n(rewards: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Give 1 to the first of the best of a group, 0 to the others: the best completion becomes the label.

    Biased for g. The mean is sum_y pi_K(y) grad log pi(y), with pi_K the distribution of the best of K draws: a
    step towards that distribution, -grad KL(pi_K || pi) with pi_K held fixed.

    Args:
        rewards: one scalar per completion; only their order counts.

    Raises:
        ValueError: if K < 2: the best of one is that one.

    Source:
        Section 5.3 of the paper ("the top-ranked output is selected as pseudo-label supervision").
    """
    _group_size(rewards, "best-of-n")
    return torch.zeros_like(rewards).scatter(1, rewards.argmax(1, keepdim=True), 1.0)


def minimum_risk_weights(
    rewards: Float[Tensor, "B K"], logps: Float[Tensor, "B K"], sharpness: float, is_first: Bool[Tensor, "B K"]
) -> Float[Tensor, "B K"]:
    """Compute the weights of the log-probabilities in ``minimum_risk``: sharpness * q_k (R_k - sum_j q_j R_j).

    q is the model's distribution over the distinct completions drawn, raised to ``sharpness`` and normalised. Biased
    for g, because which completions were drawn depends on the policy as well.

    Args:
        rewards: one scalar per completion; minus the risk.
        logps: log-probability of each completion.
        sharpness: alpha of the source.
        is_first: False on completions that repeat an earlier one of their scene.

    Raises:
        ValueError: if K < 2.

    Source:
        Shen et al. 2016 (arXiv:1512.02433), Eq. 13.
    """
    _group_size(rewards, "minimum risk")
    rewards = _minus_the_first(rewards)
    q = (sharpness * logps).masked_fill(~is_first, -torch.inf).softmax(1)
    return sharpness * q * (rewards - (q * rewards).sum(1, keepdim=True))


def _minus_the_first(rewards: Tensor) -> Tensor:
    """Shift rewards so that equal ones are exactly 0: Adam would turn rounding errors into whole steps."""
    return rewards - rewards[:, :1]


def _group_size(rewards: Tensor, what: str) -> int:
    if rewards.shape[1] < 2:
        raise ValueError(f"{what} needs num_completions >= 2, got {rewards.shape[1]}")
    return rewards.shape[1]


def reinforce(
    logps: Float[Tensor, "B K T"],
    advantages: Float[Tensor, "B K"],
    completion_mask: Bool[Tensor, "B K T"],
) -> Float[Tensor, ""]:
    """Negative REINFORCE objective, summed over the K completions and averaged over the B scenes.

    -(1 / B) sum_b sum_i A_bi log pi(T_bi | I_b), where log pi of a completion is the *sum* over its tokens: a
    long completion is one action of the bandit and is not divided by its length.

    Args:
        logps: differentiable log-probabilities in the distribution that was sampled from.
        advantages: weights; no gradient flows through them.
        completion_mask: True on sampled tokens.

    Source:
        Eq. 1 of the paper, with the expectation over images estimated by the mean over the batch.
    """
    return -(advantages.detach() * sequence_sum(logps, completion_mask)).sum(1).mean()


def clipped_surrogate(
    logps: Float[Tensor, "B K T"],
    old_logps: Float[Tensor, "B K T"],
    advantages: Float[Tensor, "B K"],
    completion_mask: Bool[Tensor, "B K T"],
    clip_epsilon: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Compute ``reinforce`` for rollouts of an earlier state of the policy: the loss, and the share that is clipped.

    -(1 / B) sum_b sum_i min(w A, clamp(w, 1 - clip, 1 + clip) A), with w = pi(T_bi) / pi_old(T_bi) the ratio of the
    whole completions in the sampled distribution: one completion is one action. Where the policy has not moved w is 1
    and the gradient is that of ``reinforce``.

    Args:
        logps: differentiable, in the sampled distribution.
        old_logps: the same when the completions were drawn.
        advantages: weights; no gradient flows through them.
        completion_mask: True on sampled tokens.
        clip_epsilon: how far w may go from 1 before a completion stops pushing further.

    Source:
        Schulman et al. 2017 (arXiv:1707.06347), Eq. 7; per completion as in Ahmadian et al. 2024 (arXiv:2402.14740).
    """
    weights = advantages.detach()
    ratio = sequence_sum(logps - old_logps.detach(), completion_mask).exp()
    free, held = ratio * weights, ratio.clamp(1 - clip_epsilon, 1 + clip_epsilon) * weights
    return -torch.minimum(free, held).sum(1).mean(), (held < free).float().mean()


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
    K grad KL(p_ref || pi), the other direction, of each token's distribution after the tokens before it. The optimum
    with a reward is therefore not p_ref exp(r / beta) / Z; for one token it is beta p_ref / (lambda - r).

    Source:
        Schulman 2020 (k3); as loss: Shao et al. 2024 (arXiv:2402.03300), Eq. 4.
    """
    d = torch.where(completion_mask, logps - ref_logps, 0.0)
    return sequence_sum(torch.expm1(-d) + d, completion_mask).sum(1).mean()


def next_beta(beta: float, kl: float, target: float, rate: float) -> float:
    """Compute the next weight of a KL term: larger if the policy is too far from its reference, smaller if too near.

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
