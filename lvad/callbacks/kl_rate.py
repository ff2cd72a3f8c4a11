"""A learning rate that is adapted to the KL, so that a policy leaves its reference at a chosen speed.

Departures from the adaptive schedules of the field (Heess et al. 2017, arXiv:1707.02286, whose coefficient keeps the KL
of an update within a band around its target; rsl_rl's ``schedule="adaptive"``, which does so with the learning rate):
1. What is controlled is not the KL of one update but ``train/kl``, to the reference (the initial policy or its last
   refresh). That adds up: it begins at 0, so the rate first rises to ``max_factor``. A lower rate does not bring the
   KL back by itself, that is the pull of the KL term. Together they bring a run to its target fast and hold it there.
2. It is the mean of a window, with at most one change per window: a batch's k1 estimate is noisy, and the KL answers
   to a rate only some steps later.
3. The limits are factors of the configured rates, so that they hold for every parameter group.
"""

import copy
import math
from statistics import fmean
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from lvad.errors import DataError

MEASURED = "train/kl"
CRITIC = "critic"
"""Name of the parameter group whose rate stays: a critic does not move the policy."""


def next_factor(factor: float, kl: float, target: float, change: float, low: float, high: float) -> float:
    """Compute the factor on the learning rates after a window.

    Args:
        factor: before it.
        kl: mean over the window, in nats per completion.
        target: in the same unit; between half and twice of it nothing changes.
        change: what the factor is divided by above twice the target, and multiplied by below half of it.
        low: the least factor.
        high: the greatest.
    """
    if kl > 2 * target:
        factor /= change
    elif kl < target / 2:
        factor *= change
    return min(max(factor, low), high)


class KLRate(Callback):
    """Lowers the learning rate when the mean ``train/kl`` is above twice its target, raises it below half of it.

    The critic's rate stays as it is. ``lr-factor`` is logged at every training batch.

    Args:
        target: nats per completion, to the reference (the initial policy or its last refresh).
        window: training batches whose mean is judged; the next window begins after it.
        change: the factor of one change.
        min_factor: the least rate, as a factor of the configured one.
        max_factor: the greatest.

    Raises:
        ValueError: for a target that is not positive and finite, a window below 1, a change that is not finite and
            above 1, or limits that do not hold 1 between them.
        DataError: at the start of a fit, with a learning rate schedule beside it or for a run that measures no KL.
    """

    def __init__(
        self,
        target: float,
        window: int = 10,
        change: float = 1.5,
        min_factor: float = 0.1,
        max_factor: float = 3.0,
    ) -> None:
        if not 0 < target < math.inf:
            raise ValueError(f"target must be > 0 nats per completion and finite, got {target}")
        if window < 1:
            raise ValueError(f"window must be >= 1 training batch, got {window}")
        if not 1 < change < math.inf:
            raise ValueError(f"change must be > 1 and finite, got {change}")
        if not 0 < min_factor <= 1:
            raise ValueError(f"min_factor must be in (0, 1], got {min_factor}")
        if not 1 <= max_factor < math.inf:
            raise ValueError(f"max_factor must be >= 1 and finite, got {max_factor}")
        self.target, self.window, self.change = target, window, change
        self.min_factor, self.max_factor = min_factor, max_factor
        self.factor = 1.0
        self.kls: list[float] = []  # of the window so far
        self.rates: list[list[float]] = []  # as configured, per optimizer and parameter group

    def state_dict(self) -> dict[str, Any]:
        """Return the factor and the unfinished window, for a resumed fit."""
        return copy.deepcopy({name: getattr(self, name) for name in ("factor", "kls")})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the factor and the unfinished window."""
        self.factor, self.kls = state_dict["factor"], list(state_dict["kls"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a fit without a KL or with a schedule; note the configured rates before a checkpoint is restored."""
        if trainer.lr_scheduler_configs:
            raise DataError("KLRate sets the learning rate, and so does lr_scheduler: leave one of them out")
        if getattr(pl_module, "kl", self) is None:  # said here, before a validation; others are found out later
            raise DataError(_unmeasured())
        self.rates = [[float(group["lr"]) for group in opt.param_groups] for opt in trainer.optimizers]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the batch to the window, and set the rates when the window is full."""
        if MEASURED not in trainer.callback_metrics:
            raise DataError(_unmeasured())
        self.kls.append(float(trainer.callback_metrics[MEASURED]))
        if len(self.kls) >= self.window:
            kl = _mean_of_ranks(trainer, fmean(self.kls))  # the ranks must not part ways
            self.factor = next_factor(self.factor, kl, self.target, self.change, self.min_factor, self.max_factor)
            self.kls = []
            self._set_rates(trainer)
        pl_module.log("lr-factor", self.factor)

    def _set_rates(self, trainer: Trainer) -> None:
        for optimizer, rates in zip(trainer.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                if group.get("name") != CRITIC:
                    group["lr"] = rate * self.factor


def _mean_of_ranks(trainer: Trainer, value: float) -> float:
    mean = trainer.strategy.reduce(torch.tensor(value, device=trainer.strategy.root_device), reduce_op="mean")
    return float(torch.as_tensor(mean))


def _unmeasured() -> str:
    return f"KLRate steers by {MEASURED}, which this run does not log: give the policy a kl ({{beta: 0}} only measures)"
