"""The configuration's optimizer, schedule and early stopping take precedence over those of a checkpoint."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lvad.errors import DataError

Settings = dict[str, Any]


class ConfigPrecedence(Callback):
    """Callback that lets a resumed fit take optimizer and schedule from its configuration, and prints what changed.

    A checkpoint holds the values of the run that wrote it, and PyTorch puts them back over the configured ones. Here
    they are compared with those that the earlier run was configured with; what differs is set as configured: a
    learning rate keeps the factor that the run has found for it, a schedule is taken as if the run had had it from its
    first step. Unchanged, nothing is touched.
    """

    def __init__(self) -> None:
        self._configured: list[Settings] = []
        self._checkpointed: list[Settings] = []
        self._patience: list[tuple[EarlyStopping, int]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the configured settings of each optimizer."""
        return {"optimizers": copy.deepcopy(self._configured)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the settings that the earlier fit was configured with."""
        self._checkpointed = state_dict["optimizers"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Store the configured patience of early stopping, before a checkpoint overwrites it."""
        found: Iterator[Any] = (c for c in trainer.callbacks if isinstance(c, EarlyStopping))  # type: ignore[attr-defined]
        self._patience = [(callback, callback.patience) for callback in found]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store the configured settings, before the checkpoint's optimizer is loaded."""
        self._configured = [_settings(trainer, optimizer) for optimizer in trainer.optimizers]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the settings that differ from the checkpoint as they are configured.

        Raises:
            DataError: for another class of optimizer, whose state would be that of the old one.
        """
        for callback, patience in self._patience:
            callback.patience = patience
        for optimizer, before, now in zip(trainer.optimizers, self._checkpointed, self._configured, strict=False):
            if changed := changed_settings(before, now):
                rank_zero_info("the configuration wins over the checkpoint: " + ", ".join(changed))
                _apply_settings(trainer, optimizer, before, now)


def _settings(trainer: Trainer, optimizer: Optimizer) -> Settings:
    """Return the settings of an optimizer and its schedules, as plain values."""
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    schedules = [
        {"kind": type(config.scheduler).__name__, "state": config.scheduler.state_dict()}
        for config in _schedules(trainer, optimizer)
    ]
    return copy.deepcopy({"kind": type(optimizer).__name__, "groups": groups, "schedules": schedules})


def _schedules(trainer: Trainer, optimizer: Optimizer) -> list[Any]:
    return [config for config in trainer.lr_scheduler_configs if config.scheduler.optimizer is optimizer]


def changed_settings(before: Any, now: Any, name: str = "") -> list[str]:
    """Describe each value that differs, as "name was this and is that"; values are compared as texts."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*now, *(key for key in before if key not in now)]
        return [
            text
            for key in keys
            for text in changed_settings(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [
            text
            for i, pair in enumerate(zip(before, now, strict=True))
            for text in changed_settings(*pair, f"{name}[{i}]")
        ]
    return [] if repr(before) == repr(now) else [f"{name} was {before!r:.60} and is {now!r:.60}"]


def _apply_settings(trainer: Trainer, optimizer: Optimizer, before: Settings, now: Settings) -> None:
    if before["kind"] != now["kind"]:
        problem = f"the optimizer was {before['kind']} and is {now['kind']}, which cannot go on with the other's state"
        raise DataError(f"{problem}: take that back, or start anew without --ckpt_path")
    schedules = _schedules(trainer, optimizer)
    if any(not isinstance(config.scheduler, ReduceLROnPlateau) for config in schedules):
        _replay_schedules(trainer, optimizer, now, schedules)
        return
    for group, old, new in zip(optimizer.param_groups, before["groups"], now["groups"], strict=True):
        factor = group["lr"] / old["lr"] if old["lr"] and not _has_other_schedules(before, now) else 1.0
        group |= {name: value for name, value in new.items() if repr(value) != repr(old.get(name))}
        group["lr"] = new["lr"] * factor
    for i, (config, new) in enumerate(zip(schedules, now["schedules"], strict=True)):
        old = before["schedules"][i] if i < len(before["schedules"]) else {"kind": "", "state": {}}
        is_same = old["kind"] == new["kind"]
        state = {k: v for k, v in new["state"].items() if not is_same or repr(v) != repr(old["state"].get(k))}
        vars(config.scheduler).update(copy.deepcopy(state))


def _has_other_schedules(before: Settings, now: Settings) -> bool:
    return [s["kind"] for s in before["schedules"]] != [s["kind"] for s in now["schedules"]]


def _replay_schedules(trainer: Trainer, optimizer: Optimizer, now: Settings, schedules: list[Any]) -> None:
    """Step the configured schedules from their first step to the present one."""
    for group, new in zip(optimizer.param_groups, now["groups"], strict=True):
        group |= copy.deepcopy(new)
    for config, new in zip(schedules, now["schedules"], strict=True):
        config.scheduler.load_state_dict(copy.deepcopy(new["state"]))
        num_steps = trainer.global_step if config.interval == "step" else trainer.current_epoch
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that no optimizer step lies between
                for _ in range(num_steps // config.frequency):
                    config.scheduler.step()
        except ValueError as error:
            remedy = "give lr_scheduler room for them, or start anew without --ckpt_path"
            raise DataError(f"the schedule does not reach the run's {num_steps} steps ({error}): {remedy}") from error
