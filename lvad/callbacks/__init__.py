"""Lightning callbacks that a fit runs with or may be given: learning rate, weights, seeds, and the plan of the fit."""

from lvad.callbacks.kl_rate import KLRate
from lvad.callbacks.weight_average import AverageWeights

__all__ = ["AverageWeights", "KLRate"]
