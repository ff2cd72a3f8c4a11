"""``last.ckpt``: the checkpoint that an interrupted fit resumes from with the same numbers."""

import signal
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lvad.commands.loop_progress import restore_batch_progress, rewrite_progress
from lvad.commands.signals import Stopped, StopSignals
from lvad.data.loaders import RESTART_REMEDY
from lvad.errors import DataError

_DUE = "is_validation_due"
_BATCHES_APART = 20
"""Fewest batches between two checkpoints of a fit without validation."""


class LastCheckpoint(Checkpoint):
    """Callback that writes ``last.ckpt`` after each validation, at the end and at a signal, and resumes from it.

    A resumed fit gives the same bits as one that was never interrupted. The file is written only where nothing is half
    done: after the optimizer step of the last accumulated batch, and at the end of an epoch after the schedules that a
    validation moves. The fit obeys a signal at these points, or within a validation, which the resumed fit repeats from
    its beginning.

    Args:
        stop: the signals that the process has received; None for none.
    """

    def __init__(self, stop: StopSignals | None = None) -> None:
        self.stop = stop or StopSignals()
        self._path = Path()
        self._is_disabled = False
        self._is_due = False  # a checkpoint, at the next good moment
        self._is_validation_due = False
        self._num_batches_saved = -1  # training batches in the file
        self._is_resumed = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store whether the validation after the last batch is still due."""
        checkpoint[_DUE] = self._is_validation_due

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Set Lightning's counters for the resumed fit.

        Raises:
            DataError: for a checkpoint that does not say where its fit stopped.
        """
        if trainer.state.fn != "fit":
            return
        loops = checkpoint.get("loops")
        if not isinstance(loops, dict) or not isinstance(loops.get("fit_loop"), dict) or _DUE not in checkpoint:
            raise DataError(
                f"the checkpoint does not say where its fit stopped, as this version of lvad does; {RESTART_REMEDY}"
            )
        rewrite_progress(loops["fit_loop"], bool(checkpoint[_DUE]))
        self._is_resumed = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the path of ``last.ckpt``."""
        # Here, where every rank comes by: log_dir is a broadcast.
        self._path = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        self._is_disabled = stage != "fit" or bool(getattr(trainer, "fast_dev_run", False))
        cluster = getattr(trainer.strategy, "cluster_environment", None)
        self.stop.is_child = isinstance(cluster, LightningEnvironment) and trainer.local_rank > 0

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Defer signals from now on, until the loop can obey them."""
        self.stop.defer()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Defer signals where there was no sanity check, and count the batches of a resumed epoch."""
        self.stop.defer()
        if self._is_resumed:
            restore_batch_progress(trainer)
            self._report_progress(trainer, Path(str(trainer.ckpt_path)))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint that was due at the end of the last epoch."""
        if self._is_due:
            self._write(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the step of the logger to that of the optimizer."""
        if self._is_resumed:
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
            self._is_resumed = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Obey a signal, and write a checkpoint that is due, unless a validation follows that writes it."""
        self._stop_if_signalled(trainer)
        loop = trainer.fit_loop
        if self._is_due and not loop._should_accumulate() and loop._data_fetcher is not None:
            if not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):
                self._write(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """End the validation at a signal."""
        self._stop_if_signalled(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint now, or as soon as nothing is half done."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._is_due = True
        if not _ends_epoch(trainer) and not trainer.fit_loop._should_accumulate():
            self._write(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint after an epoch without validation, but not after every very short one."""
        batches = trainer.num_val_batches
        has_validation = bool(sum(batches) if isinstance(batches, list) else batches)
        num_new = trainer.fit_loop.epoch_loop.total_batch_idx + 1 - self._num_batches_saved
        self._is_due |= not has_validation and num_new >= _BATCHES_APART

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint of the end of the fit.

        Raises:
            Stopped: if a signal came too late for a batch to obey it.
        """
        self._write(trainer)
        self.stop.stop_deferring()
        if self._is_stop_requested(trainer):
            raise Stopped(self.stop.code)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write a checkpoint where a signal ended the loop; after an error the state may be half done."""
        self.stop.stop_deferring()
        if not isinstance(exception, SIGTERMException) or not trainer.global_step:
            return
        self._is_validation_due = trainer.validating
        if self._is_validation_due or trainer.fit_loop.epoch_loop.total_batch_idx + 1 != self._num_batches_saved:
            self._write(trainer)

    def _stop_if_signalled(self, trainer: Trainer) -> None:
        if trainer.state.fn != "fit" or not self._is_stop_requested(trainer):
            return
        if trainer.sanity_checking or not trainer.fit_loop._should_accumulate():
            # Lightning's loops end at this, with SIGTERMException, once the batch is finished.
            trainer._signal_connector.received_sigterm = True

    def _is_stop_requested(self, trainer: Trainer) -> bool:
        """Whether the process of any device has received a signal: all must stop at the same batch."""
        is_asked = trainer.strategy.reduce_boolean_decision(self.stop.received is not None, all=False)
        if is_asked and self.stop.received is None:
            self.stop.received = signal.SIGTERM
        return is_asked

    def _write(self, trainer: Trainer) -> None:
        self._is_due = False
        if self._is_disabled or not trainer.global_step:
            return
        for logger in trainer.loggers if trainer.is_global_zero else ():
            logger.save()  # what it holds back would be lost with the process
        trainer.save_checkpoint(self._path)
        self._num_batches_saved = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        self._report_progress(trainer, self._path)

    def _report_progress(self, trainer: Trainer, path: Path) -> None:
        self.stop.checkpoint, self.stop.step = path, trainer.global_step


def _ends_epoch(trainer: Trainer) -> bool:
    return trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
