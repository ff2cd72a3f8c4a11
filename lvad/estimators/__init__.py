"""Estimators of the policy gradient: how rewards become the weight of each completion's log-probability."""

from lvad.estimators.base import Estimate, Estimator, ScoredRollouts
from lvad.estimators.baselines import GRPO, RLOO, SCST, Reinforce
from lvad.estimators.critic import A2C
from lvad.estimators.selection import BestOfN, MinimumRisk

__all__ = [
    "A2C",
    "GRPO",
    "RLOO",
    "SCST",
    "BestOfN",
    "Estimate",
    "Estimator",
    "MinimumRisk",
    "Reinforce",
    "ScoredRollouts",
]
