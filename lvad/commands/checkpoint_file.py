"""Checkpoints as anyone may have written them: read as tensors and plain values, never executed."""

import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from lvad.data.reading import plain_file
from lvad.errors import DataError

# What torch.load makes of a broken file: it has no error of its own.
_BROKEN: Final = (
    *(RuntimeError, OSError, EOFError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError),
    *(AssertionError, MemoryError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile),
)


def read_checkpoint(path: Path, remedy: str) -> dict[str, Any]:
    """A Lightning checkpoint; the tensors are read from the file when they are used.

    Args:
        path: the file.
        remedy: what to do without it.

    Returns:
        At least ``state_dict``, tensors by name, and ``global_step``.

    Raises:
        DataError: if it cannot be read, is something else, or holds more than tensors and plain values.
    """
    try:
        _check_size(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        _check_parts(content)
    except _BROKEN as error:
        # Torch's advice, to load it all the same, is not repeated.
        reason = " ".join(str(error).partition("\n")[0].split())[:120]
        raise DataError.at(path, "", f"is no checkpoint that can be read ({reason})", remedy) from error
    return content


def check_checkpoint(name: str) -> None:
    """Look a ``--ckpt_path`` over before Lightning loads it; what is no file (a folder, "best") is left to it.

    Raises:
        DataError: for an address, whose pickle Lightning would execute, or a file that cannot be read.
    """
    if "://" in name:
        raise DataError(f"checkpoint {name} is an address; download it, and give the file to --ckpt_path")
    path = Path(name)
    if os.path.lexists(path) and not path.is_dir():
        read_checkpoint(path, "give another one with --ckpt_path")


def _check_size(path: Path) -> None:
    """Torch stores what it writes as it is; a few packed kilobytes may unfold to more than there is memory."""
    size = plain_file(path).st_size
    with zipfile.ZipFile(path) as archive:
        if sum(part.file_size for part in archive.infolist()) > size:
            raise ValueError("it unfolds to more than it holds")


def _check_parts(content: Any) -> None:
    state, step = (content.get(name) if isinstance(content, dict) else None for name in ("state_dict", "global_step"))
    if not isinstance(state, dict) or type(step) is not int:
        raise ValueError("it holds no state_dict and global_step")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"its state_dict holds {name!r:.40}, a {type(value).__name__}, beside tensors")
