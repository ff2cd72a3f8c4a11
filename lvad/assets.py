"""The places of the files that ship with lvad: the embedded models and the configurations."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

EMBEDDED: Final = "embedded/"

_PACKAGE = Path(__file__).resolve().parent
_SHIPPED = _PACKAGE / "_shipped"  # in a wheel
_ROOT = _SHIPPED if _SHIPPED.is_dir() else _PACKAGE.parent  # in a checkout

CHECKPOINTS: Final = _ROOT / "checkpoints"
CONFIGS: Final = _ROOT / "configs"


def resolve_model(name: str) -> str:
    """Turn a model's name in a configuration into what the libraries load.

    Args:
        name: ``embedded/NAME`` for a model that ships with lvad, a folder, or a hub name.

    Returns:
        The absolute path of an existing folder, or the name unchanged (a hub name).

    Raises:
        FileNotFoundError: for an unknown embedded model, or for what looks like a path and is no folder.
    """
    if name.startswith(EMBEDDED):
        known = sorted(p.name for p in CHECKPOINTS.glob("*") if p.is_dir())
        if name.removeprefix(EMBEDDED) not in known:
            raise FileNotFoundError(f"no embedded model {name!r}; there are {[EMBEDDED + k for k in known]}")
        return str(CHECKPOINTS / name.removeprefix(EMBEDDED))
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        return str(path.resolve())
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"no model folder at {name!r:.200}")
    return name


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Turn any error of a library that loads a broken model into one line that names the model.

    Args:
        name: of the model.

    Raises:
        ValueError: with the message of the library.
    """
    try:
        yield
    # tokenizers raises Exception itself, or panics in Rust, which is no Exception; the others raise errors of any kind.
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())
        reason = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in reason)
        reason = reason if len(reason) <= 400 else f"{reason[:400]} ..."
        kind = type(error).__name__
        raise ValueError(
            f"model {name!r:.200} cannot be loaded ({kind}: {reason}); restore its files, or name another"
        ) from error


def resolve_config(name: str) -> Path:
    """Find a configuration: as given, else among those that ship with lvad.

    Raises:
        FileNotFoundError: if neither place has it.
    """
    given = Path(name)
    if os.path.isfile(given):  # False too for what no file can be called, where Path.is_file() may raise
        return given
    shipped = CONFIGS.parent / name if given.parts[:1] == ("configs",) else CONFIGS / name
    if not given.is_absolute() and os.path.isfile(shipped):
        return shipped
    raise FileNotFoundError(
        f"no configuration at {name!r:.200}, nor one of that name among the shipped ones in {CONFIGS}"
    )
