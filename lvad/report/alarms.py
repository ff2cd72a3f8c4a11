"""Alarms: a callback that watches the logged numbers for the ways in which training on a proxy reward goes wrong.

1. ``hacking``: the held-out reward rises while a judge that nothing is trained on falls (Gao et al. 2022,
   arXiv:2210.10760, call it over-optimisation of a proxy).
2. ``takeover``: one text is the completion of most scenes.
3. ``no_spread``: the rewards of every group are equal, so that every advantage is zero.
4. ``runaway``: completions grow without end.
5. ``far``: the KL to the reference is larger than what a reward can be trusted for.
6. ``worse``: the fit ends with a held-out score below that of its start.

An alarm is a message; it stops nothing. It reads the numbers that rank zero logs.
"""

import copy
import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any, TypedDict

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

REWARD, KL, ZERO_SPREAD = "reward/mean", "train/kl", "advantage/zero_spread"
LENGTH, TRUNCATED, COMMON = "rollout/length", "rollout/truncated", "rollout/common"
TRAINING = (REWARD, KL, ZERO_SPREAD, LENGTH, TRUNCATED, COMMON)
HELD_OUT, DISTINCT = "val/reward", "val/distinct"
JUDGES = ("val/judge", "val/fact_precision")
"""The held-out judges, in order of preference: the first one that a run logs is used."""
VALIDATION = (HELD_OUT, DISTINCT, *JUDGES)
MARGIN = 0.1
"""How much a share must exceed that of the first window: several times the noise of a window. A share that was high
from the start therefore raises no alarm."""
PATIENCE = 2
"""Validations in a row that must show reward hacking: a single one may be noise."""


class RaisedAlarm(TypedDict):
    """A raised alarm, as the record of the run keeps it."""

    step: int
    """Optimizer steps done."""
    alarm: str
    text: str


def judge_of(first: Mapping[str, float], now: Mapping[str, float]) -> str | None:
    """Name the judge that the first validation and this one share; None where they cannot be compared."""
    common = first.keys() & now.keys()
    return next((name for name in JUDGES if name in common), None) if HELD_OUT in common else None


def is_hacking(first: Mapping[str, float], now: Mapping[str, float], judge: str, tolerance: float) -> bool:
    """Whether the reward rose since the first validation while the judge fell by more than ``tolerance``."""
    return now[HELD_OUT] > first[HELD_OUT] and now[judge] < first[judge] - tolerance


def has_grown(first: float, last: float, share: float) -> bool:
    """Whether a share is above ``share`` and by more than ``MARGIN`` above that of the first window."""
    return last > share and last > first + MARGIN


def is_longer(first_tokens: float, last_tokens: float, ratio: float) -> bool:
    """Whether the mean length, in tokens, is more than ``ratio`` times that of the first window."""
    return last_tokens > ratio * first_tokens


def lacks_spread(share: float) -> bool:
    """Whether all groups of a window have equal rewards, by the window's mean share of such groups."""
    return share >= 1.0  # a mean of ones is exactly one


class Alarms(Callback):
    """Prints one line when one of the six faults begins, with the numbers and a remedy, and another when it ends.

    Each alarm is logged as ``alarm/<name>``, 0 or 1, at the first step where it can be judged and whenever it changes.
    An alarm whose numbers a run does not log stays silent. During training, the mean over the last ``window`` batches
    (steps, where no gradients are accumulated) is compared with that over the first ones. Such an alarm ends after
    ``window`` batches without cause, so that a number near its limit does not raise it at every step. ``hacking`` is
    measured against the run's first validation: the one before the first update where it is over all scenes
    (``num_sanity_val_steps: -1``).

    ``raised`` keeps every alarm for the run's record.

    Args:
        window: training batches.
        judge_tolerance: how far the judge may fall, in its own unit (fact precision: a share).
        common_share: share of a batch's completions that may be one text.
        length_ratio: the mean length, in tokens, may grow to this many times that of the first window.
        truncated_share: share of the completions that may be truncated.
        kl_limit: the KL to the reference, in nats per completion, that may be reached.

    Raises:
        ValueError: for a window below 1, a tolerance that is negative or not finite, a share outside (0, 1), a ratio
            that is not finite and above 1, or a limit that is not above 0.
    """

    def __init__(
        self,
        window: int = 20,
        judge_tolerance: float = 0.02,
        common_share: float = 0.5,
        length_ratio: float = 2.0,
        truncated_share: float = 0.5,
        kl_limit: float = 10.0,
    ) -> None:
        if window < 1:
            raise ValueError(f"window must be >= 1 training batch, got {window}")
        if not 0 <= judge_tolerance < math.inf:
            raise ValueError(f"judge_tolerance must be >= 0 and finite, got {judge_tolerance}")
        for name, share in (("common_share", common_share), ("truncated_share", truncated_share)):
            if not 0 < share < 1:
                raise ValueError(f"{name} must be in (0, 1), got {share}")
        if not 1 < length_ratio < math.inf:
            raise ValueError(f"length_ratio must be > 1 and finite, got {length_ratio}")
        if not kl_limit > 0:
            raise ValueError(f"kl_limit must be > 0 nats, got {kl_limit}")
        self.window, self.kl_limit = window, kl_limit
        self.judge_tolerance = judge_tolerance
        self.common_share, self.length_ratio, self.truncated_share = common_share, length_ratio, truncated_share
        self.raised: list[RaisedAlarm] = []
        self.is_on: dict[str, bool] = {}  # of those that were judged
        self.quiet: dict[str, int] = {}  # times in a row that each was judged to have no cause
        self.first: dict[str, list[float]] = {}
        self.last: dict[str, list[float]] = {}
        self.first_scores: dict[str, float] = {}
        self.last_scores: dict[str, float] = {}
        self.hacked = 0  # validations in a row

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed fit must know of the run so far, as plain values."""
        names = ("raised", "is_on", "quiet", "first", "last", "first_scores", "last_scores", "hacked")
        return copy.deepcopy({name: getattr(self, name) for name in names})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        for name, value in state_dict.items():
            setattr(self, name, value)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Judge the last window of training batches, and raise or end the alarms of training."""
        for name, value in _take(trainer, TRAINING).items():
            self.last[name] = [*self.last.get(name, []), value][-self.window :]
            if len(self.first.setdefault(name, [])) < self.window:
                self.first[name].append(value)
        for alarm, fault in self._training_faults().items():
            self._update_alarm(trainer, alarm, fault, self.window)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the held-out scores, and raise or end the alarm of reward hacking."""
        if trainer.state.fn != "fit":
            return
        if trainer.sanity_checking and (self.first_scores or not _is_whole(trainer)):
            return  # a resumed run knows its start already; a few scenes are not comparable with all
        scores = _take(trainer, VALIDATION)
        self.first_scores = self.first_scores or scores
        self.last_scores = scores
        judge = judge_of(self.first_scores, scores)
        if judge is None:
            return
        is_hacked = is_hacking(self.first_scores, scores, judge, self.judge_tolerance)
        self.hacked = self.hacked + 1 if is_hacked else 0
        self._update_alarm(trainer, "hacking", self._hacking_text(judge) if self.hacked >= PATIENCE else "", 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the last held-out scores, since no further validation follows that could confirm them."""
        if known := self.first_scores.keys() & self.last_scores.keys() & {HELD_OUT, *JUDGES}:
            fallen = [name for name in (HELD_OUT, *JUDGES) if name in known and self._has_fallen(name)]
            self._update_alarm(trainer, "worse", self._worse_text(fallen) if fallen else "", 1)
        judge = judge_of(self.first_scores, self.last_scores)
        if judge is not None and self.hacked:
            self._update_alarm(trainer, "hacking", self._hacking_text(judge), 1)

    def _hacking_text(self, judge: str) -> str:
        first, now = self.first_scores, self.last_scores
        kl = f", at a KL of {fmean(self.last[KL]):.2f} nats" if KL in self.last else ""
        return (
            f"{HELD_OUT} rose from {first[HELD_OUT]:.3f} to {now[HELD_OUT]:.3f} while {judge}, which nothing is "
            f"trained on, fell from {first[judge]:.3f} to {now[judge]:.3f}{kl}: raise kl.beta, choose the checkpoint "
            f"by {judge} (checkpoint.monitor), or correct the reward"
        )

    def _has_fallen(self, name: str) -> bool:
        return self.last_scores[name] < self.first_scores[name] - self.judge_tolerance

    def _worse_text(self, fallen: list[str]) -> str:
        first, now = self.first_scores, self.last_scores
        found = " and ".join(f"{name} from {first[name]:.3f} to {now[name]:.3f}" for name in fallen)
        return (
            f"the fit ends below its start, {found}: do not use it without a look at its samples; lower the learning "
            "rate, raise kl.beta, or stop earlier"
        )

    def _training_faults(self) -> dict[str, str]:
        """Describe the fault of each alarm that can be judged; an empty text means no fault."""
        first = {name: fmean(values) for name, values in self.first.items() if len(values) >= self.window}
        last = {name: fmean(self.last[name]) for name in first}
        faults: dict[str, str] = {}
        if COMMON in first:
            has_taken_over = has_grown(first[COMMON], last[COMMON], self.common_share)
            faults["takeover"] = self._takeover_text(first, last) if has_taken_over else ""
        if ZERO_SPREAD in first:
            faults["no_spread"] = self._no_spread_text(last) if lacks_spread(last[ZERO_SPREAD]) else ""
        if KL in first:
            faults["far"] = self._far_text(last) if last[KL] > self.kl_limit else ""
        if first.keys() & {LENGTH, TRUNCATED}:
            faults["runaway"] = self._runaway_text(first, last)
        return faults

    def _takeover_text(self, first: Mapping[str, float], last: Mapping[str, float]) -> str:
        distinct = f", {DISTINCT} {self.last_scores[DISTINCT]:.2f}" if DISTINCT in self.last_scores else ""
        return (
            f"one text is {last[COMMON]:.0%} of the completions of the last {self.window} batches, "
            f"{first[COMMON]:.0%} of the first ones{_reward(last)}{distinct}: raise kl.beta or "
            "regularisation.entropy_bonus, or lower the learning rate"
        )

    def _far_text(self, last: Mapping[str, float]) -> str:
        return (
            f"the KL to the reference is {last[KL]:.1f} nats (mean of {self.window} batches; kl_limit "
            f"{self.kl_limit:g}){_reward(last)}: lower the learning rate, raise kl.beta or set kl.target"
        )

    def _no_spread_text(self, last: Mapping[str, float]) -> str:
        return (
            f"for {self.window} batches the completions of every scene had equal rewards{_reward(last)}, so nothing is "
            "learnt: raise the sampling temperature or num_completions, or take a reward with finer steps"
        )

    def _runaway_text(self, first: Mapping[str, float], last: Mapping[str, float]) -> str:
        found = []
        if LENGTH in first and is_longer(first[LENGTH], last[LENGTH], self.length_ratio):
            found.append(f"completions grew from {first[LENGTH]:.1f} to {last[LENGTH]:.1f} tokens")
        if TRUNCATED in first and has_grown(first[TRUNCATED], last[TRUNCATED], self.truncated_share):
            found.append(f"the truncated share from {first[TRUNCATED]:.0%} to {last[TRUNCATED]:.0%}")
        remedy = f" (means of {self.window} batches): add a Length term to the reward, or raise kl.beta"
        return ", ".join(found) + remedy if found else ""

    def _update_alarm(self, trainer: Trainer, alarm: str, fault: str, patience: int) -> None:
        """Raise an alarm that has a fault; end one that had none for the last ``patience`` times."""
        was_on, step = self.is_on.get(alarm), trainer.global_step
        self.quiet[alarm] = 0 if fault else self.quiet.get(alarm, 0) + 1
        is_on = bool(fault) or (was_on is True and self.quiet[alarm] < patience)
        if is_on == was_on:
            return
        self.is_on[alarm] = is_on
        if is_on:
            self.raised.append({"step": step, "alarm": alarm, "text": fault})
            rank_zero_warn(f"ALARM {alarm} at step {step}: {fault}")
        elif was_on:
            since = next(row["step"] for row in reversed(self.raised) if row["alarm"] == alarm)
            rank_zero_info(f"alarm {alarm}, raised at step {since}, is over at step {step}")
        for logger in trainer.loggers:
            # As Lightning counts; what stands at a checkpoint's own step is taken back on resuming.
            logger.log_metrics({f"alarm/{alarm}": float(is_on)}, max(0, step - 1))


def _reward(last: Mapping[str, float]) -> str:
    return f", {REWARD} {last[REWARD]:.3f}" if REWARD in last else ""


def _take(trainer: Trainer, names: tuple[str, ...]) -> dict[str, float]:
    metrics = trainer.callback_metrics
    return {name: float(metrics[name]) for name in names if name in metrics}


def _is_whole(trainer: Trainer) -> bool:
    """Whether the validation before the first update covers the scenes of the later ones."""
    return trainer.num_sanity_val_batches == trainer.num_val_batches
