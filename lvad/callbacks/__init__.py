"""Lightning callbacks of a fit: learning rate, averaged weights, seeds, and the plan with its trial step."""

from lvad.callbacks.kl_rate import KLRate
from lvad.callbacks.weight_average import AverageWeights

__all__ = ["AverageWeights", "KLRate"]
