"""Estimators of the policy gradient: what each completion's log-probability is weighted with."""

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
