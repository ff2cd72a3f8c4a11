"""From rewards to advantages."""

from jaxtyping import Float
from torch import Tensor


def leave_one_out(rewards: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Advantage of each completion over the mean of its K - 1 siblings.

    R_i - mean_{j != i} R_j = (K R_i - sum_j R_j) / (K - 1). The baseline does not depend on completion i, so the
    gradient that these advantages weight is unbiased.

    Args:
        rewards: one scalar per completion, any range.

    Returns:
        Advantages in the rewards' unit; each row sums to zero.

    Raises:
        ValueError: if K < 2; a completion without siblings has no baseline.

    Source:
        Eq. 1 of the paper; Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!".
    """
    num_completions = rewards.shape[1]
    if num_completions < 2:
        raise ValueError(f"leave-one-out needs num_completions >= 2, got {num_completions}")
    return (num_completions * rewards - rewards.sum(1, keepdim=True)) / (num_completions - 1)
