"""Checkpoint files: read as tensors and plain values, never executed; the whole file is written or none of it."""

import contextlib
import os
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any, Final

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from lvad.data.reading import plain_file
from lvad.errors import DataError

# What torch.load makes of a broken file: it has no error of its own.
_LOAD_ERRORS: Final = (
    *(RuntimeError, OSError, EOFError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError),
    *(AssertionError, MemoryError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile),
)
_MAX_NAME_CHARS: Final = 1000
"""Longest name of a class in a pickle: torch's own message about a name takes time in the square of its length."""


def read_checkpoint(path: Path, remedy: str) -> dict[str, Any]:
    """Read a Lightning checkpoint; the tensors are read from the file when they are used.

    Args:
        path: the file.
        remedy: what to do without it.

    Returns:
        At least ``state_dict``, tensors by name, and ``global_step``.

    Raises:
        DataError: if it cannot be read, is something else, or holds more than tensors and plain values.
    """
    try:
        _check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        _check_entries(content)
    except _LOAD_ERRORS as error:
        # Torch's advice, to load it all the same, is not repeated.
        reason = " ".join(str(error).partition("\n")[0].split())[:120]
        raise DataError.at(path, "", f"is no checkpoint that can be read ({reason})", remedy) from error
    return content


def check_checkpoint(name: str) -> None:
    """Check the file of a ``--ckpt_path`` before Lightning loads it; Lightning itself takes a folder, or "best".

    Raises:
        DataError: for an address, whose pickle Lightning would execute, or a file that cannot be read.
    """
    if "://" in name:
        raise DataError(f"checkpoint {name} is an address; download it, and give the file to --ckpt_path")
    path = Path(name)
    if os.path.lexists(path) and not path.is_dir():
        read_checkpoint(path, "give another one with --ckpt_path")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the one that it replaces, and renames it once it is on the disk.

    Lightning's own writes into the folder of temporary files and moves it from there: between two disks that is a copy,
    and a kill or a full disk in the midst of it leaves neither the old checkpoint nor the new one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint; Lightning itself writes to addresses that are no local paths.

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


def _check_archive(path: Path) -> None:
    """Refuse, before torch reads it, an archive that would take all memory or minutes of work."""
    size = plain_file(path).st_size
    with zipfile.ZipFile(path) as archive:
        # Torch stores what it writes as it is; a few packed kilobytes may unfold to more than there is memory.
        if sum(part.file_size for part in archive.infolist()) > size:
            raise ValueError("it unfolds to more than it holds")
        for name in archive.namelist():
            if name.endswith("data.pkl"):
                _check_names(archive.read(name))


def _check_names(pickled: bytes) -> None:
    """Refuse a pickle that names a class by more than ``_MAX_NAME_CHARS``."""
    for code, name, _ in pickletools.genops(pickled):
        if code.name == "GLOBAL" and len(str(name)) > _MAX_NAME_CHARS:
            raise ValueError(f"it names a class by {len(str(name)):,} characters")


def _check_entries(content: Any) -> None:
    state, step = (content.get(name) if isinstance(content, dict) else None for name in ("state_dict", "global_step"))
    if not isinstance(state, dict) or type(step) is not int:
        raise ValueError("it holds no state_dict and global_step")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"its state_dict holds {name!r:.40}, a {type(value).__name__}, beside tensors")
