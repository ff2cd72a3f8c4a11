"""The traceback of a failed fit, kept in its run folder."""

import traceback
from pathlib import Path
from typing import Final

from lightning import Callback, LightningModule, Trainer

TRACEBACK: Final = "traceback.txt"


class TracebackFile(Callback):
    """Callback that writes the traceback of an error into the run folder; the command prints one line only.

    A folder that is not there yet is not made. The error carries a note with the file's name.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run folder."""
        # Here, where every rank comes by: log_dir is a broadcast, and waits for ever when one rank asks alone.
        self._folder = Path(trainer.log_dir or trainer.default_root_dir) if stage == "fit" else None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the traceback into a file, one per rank."""
        folder = self._folder
        if folder is None or not folder.is_dir() or not isinstance(exception, Exception):
            return
        path = folder / (TRACEBACK if trainer.is_global_zero else f"rank{trainer.global_rank}_{TRACEBACK}")
        try:
            path.write_text("".join(traceback.format_exception(exception)), encoding="utf-8")
        except OSError:  # a full disk may be the very error that is to be said
            return
        exception.add_note(f"traceback: {path}")
