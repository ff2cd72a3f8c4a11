"""Estimators that choose or re-weight completions instead of subtracting a baseline; none is unbiased for grad E[R]."""

from lvad.estimators.base import Estimate, Estimator, ScoredRollouts
from lvad.losses.minimum_risk import is_first_occurrence
from lvad.losses.policy_gradient import best_of_n, minimum_risk_weights
from lvad.ops import sequence_sum


class BestOfN(Estimator):
    """The best of K completions becomes the label of its scene, as the paper's section 5.3 describes stage 1.

    The mean is the gradient towards the distribution of the best of K draws. Every group moves the policy, even one
    whose rewards are all equal: a good group is not told from a bad one.
    """

    def estimate(self, scored: ScoredRollouts) -> Estimate:
        """Compute weights float[B, K], with a single 1 in each row."""
        return Estimate(best_of_n(scored.rewards))


class MinimumRisk(Estimator):
    """Minimum risk training over the distinct completions drawn.

    It is the exact gradient of the expected reward under the model's distribution renormalised over them, not of E[R].

    Args:
        sharpness: exponent of the renormalised distribution (alpha of the source, 0.005 there for whole sentences).

    Raises:
        ValueError: for a sharpness that is not positive.

    Source:
        Shen et al. 2016 (arXiv:1512.02433).
    """

    def __init__(self, sharpness: float = 0.05) -> None:
        super().__init__()
        if not sharpness > 0:
            raise ValueError(f"sharpness must be > 0, got {sharpness}")
        self.sharpness = sharpness

    def estimate(self, scored: ScoredRollouts) -> Estimate:
        """Compute weights float[B, K]; each row sums to zero."""
        rollouts = scored.rollouts
        logps = sequence_sum(rollouts.logps, rollouts.completion_mask).to(scored.rewards.dtype)
        is_first = is_first_occurrence(rollouts.tokens, rollouts.completion_mask)
        return Estimate(minimum_risk_weights(scored.rewards, logps, self.sharpness, is_first))
