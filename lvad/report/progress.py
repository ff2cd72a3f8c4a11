"""Progress of a fit: a bar on a terminal, plain lines in a file or in a job's log."""

import sys
import time
from typing import Any, Final

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar

EVERY_S: Final = 30.0
"""Seconds between two plain lines, at least; the first step and the last one always have theirs."""


def default_progress_bar() -> ProgressBar:
    """Make a bar for a terminal, or plain lines for any other output."""
    return TerminalProgressBar() if sys.stdout.isatty() else PlainProgressLines()


class TerminalProgressBar(RichProgressBar):
    """Lightning's progress bar without the version number of the run."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the scores that the bar shows."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class PlainProgressLines(ProgressBar):
    """Prints one line every ``every_n_steps`` optimizer steps, where the output is no terminal.

    Args:
        every_n_steps: None takes ``log_every_n_steps`` of the trainer, and leaves out lines that come within
            ``EVERY_S`` of the one before.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        super().__init__()
        self.every_n_steps = every_n_steps
        self._is_on = True
        self._said_step, self._said_s, self._start_s, self._start_step = -1, 0.0, 0.0, 0

    def disable(self) -> None:
        """Stop printing; Lightning calls it on all ranks but the first."""
        self._is_on = False

    def enable(self) -> None:
        """Start printing again."""
        self._is_on = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the fit."""
        self._start_s, self._start_step = time.perf_counter(), trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print the progress of the fit, at most once per optimizer step."""
        step, now_s = trainer.global_step, time.perf_counter()
        is_due = step % (self.every_n_steps or max(1, getattr(trainer, "log_every_n_steps", 1))) == 0
        is_soon = self.every_n_steps is None and now_s - self._said_s < EVERY_S
        is_end = step in (1, trainer.estimated_stepping_batches)
        if self._is_on and step > 0 and step != self._said_step and (is_end or (is_due and not is_soon)):
            self._said_step, self._said_s = step, now_s
            print(self._line(trainer, pl_module, now_s), flush=True)

    def _line(self, trainer: Trainer, pl_module: LightningModule, now_s: float) -> str:
        step, whole = trainer.global_step, trainer.estimated_stepping_batches
        rate = (step - self._start_step) / max(now_s - self._start_s, 1e-9)
        metrics = {name: value for name, value in self.get_metrics(trainer, pl_module).items() if name != "v_num"}
        scores = [f"{name} {value:.3f}" for name, value in metrics.items() if isinstance(value, int | float)]
        return f"step {step}/{whole:.0f}, epoch {trainer.current_epoch}: {', '.join([*scores, f'{rate:.2f} steps/s'])}"
