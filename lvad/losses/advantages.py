"""From rewards to advantages: what each completion's log-probability is weighted with.

With the weights A_bk, the loss of ``policy_gradient.reinforce`` is -(1/B) sum_b sum_k A_bk log pi(T_bk | I_b): a sum
over the K completions of a scene (as in Eq. 1 of the paper) and a mean over scenes. "Unbiased" below says what the mean
of its negative gradient over all draws is, in multiples of g = grad E[R].
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


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
    rewards = _from_the_first(rewards)
    return (num_completions * rewards - rewards.sum(1, keepdim=True)) / (num_completions - 1)


def group_relative(rewards: Float[Tensor, "B K"], scale_by_std: bool, epsilon: float = 1e-4) -> Float[Tensor, "B K"]:
    """Distance of each completion to the mean of its group, itself included; in group standard deviations if asked.

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
    rewards = _from_the_first(rewards)
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, keepdim=True) + epsilon) if scale_by_std else centred


def best_of_n(rewards: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """1 for the first of the best of a group, 0 for the others: the best completion becomes the label.

    Biased for g. The mean is sum_y pi_K(y) grad log pi(y), with pi_K the law of the best of K draws: a step towards
    that law, -grad KL(pi_K || pi) with pi_K held fixed.

    Args:
        rewards: one scalar per completion; only their order counts.

    Raises:
        ValueError: if K < 2: the best of one is whatever was said.

    Source:
        Section 5.3 of the paper ("the top-ranked output is selected as pseudo-label supervision").
    """
    _group_size(rewards, "best-of-n")
    return torch.zeros_like(rewards).scatter(1, rewards.argmax(1, keepdim=True), 1.0)


def minimum_risk_weights(
    rewards: Float[Tensor, "B K"], logps: Float[Tensor, "B K"], sharpness: float, is_first: Bool[Tensor, "B K"]
) -> Float[Tensor, "B K"]:
    """What ``minimum_risk`` weights each log-probability with: sharpness * q_k (R_k - sum_j q_j R_j).

    q is the model's law over the distinct completions drawn, raised to ``sharpness`` and normalised. Biased for g, for
    which completions were drawn depends on the policy as well.

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
    rewards = _from_the_first(rewards)
    law = (sharpness * logps).masked_fill(~is_first, -torch.inf).softmax(1)
    return sharpness * law * (rewards - (law * rewards).sum(1, keepdim=True))


def _from_the_first(rewards: Tensor) -> Tensor:
    """Shifted so that equal rewards are exactly 0: an optimizer like Adam would make steps of what rounding leaves."""
    return rewards - rewards[:, :1]


def _group_size(rewards: Tensor, what: str) -> int:
    if rewards.shape[1] < 2:
        raise ValueError(f"{what} needs num_completions >= 2, got {rewards.shape[1]}")
    return rewards.shape[1]
