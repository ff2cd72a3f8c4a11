"""Checkpoints are written whole or not at all."""

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lvad.errors import DataError


class WholeFileIO(TorchCheckpointIO):
    """Writes a checkpoint beside the one that it replaces, and puts it in its place once the disk has it.

    Lightning's own writes into the folder of temporary files and moves it from there: between two disks that is a copy,
    and a kill or a full disk in the midst of it leaves neither the old checkpoint nor the new one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write; addresses that are no local paths are left to Lightning.

        Raises:
            DataError: if the disk does not take it; what was there before still is.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        part = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
        except (OSError, RuntimeError) as error:  # a full disk is either, as torch was told of it
            with contextlib.suppress(OSError):  # it may be the folder that is amiss
                part.unlink()
            problem = f"could not be written ({' '.join(str(error).split())[:200]}), what was there before is kept"
            raise DataError.at(target, "", problem, "make room and go on with --ckpt_path last") from error
