"""Renamed configuration keys: an old key is refused with its new name, in files, overrides and command lines."""

from argparse import ArgumentError
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from lvad.commands.yaml_files import read_yaml
from lvad.errors import DataError

_SOURCE: Final = (
    *("format", "root", "images", "num_frames", "image_size_px", "fps", "video_stream", "footage", "num_drawn"),
    "drawing_seed",
)
_SPLIT: Final = ("subset", "num_scenes", "budget", "budget_val", "rest", "unlabelled", "pseudo_labels")
RENAMED: Final = {
    **{f"data.{key}": f"data.source.{key}" for key in _SOURCE},
    **{f"data.{key}": f"data.split.{key}" for key in _SPLIT},
    "model.controls": "model.regularisation",
    "model.regularisation.clip": "model.regularisation.clip_epsilon",
    "model.regularisation.reward_clip": "model.regularisation.reward_limit",
}
"""Old key to new key, both without ``init_args``. The key of a group stands for all keys below it."""


def check_arguments(args: Sequence[str]) -> None:
    """Refuse a command line of options, or a configuration that it names, with a key that has another name now.

    Args:
        args: ``--key value`` or ``--key=value``; configurations as ``--config FILE``.

    Raises:
        ArgumentError: for an option, with its new name.
        DataError: for a key of a file, naming both; or a file that is no YAML.
    """
    options = [arg.removeprefix("--").partition("=")[0] for arg in args if arg.startswith("--")]
    if said := _new_names(options):
        raise ArgumentError(None, said)
    for option, value in pairwise(args):
        if option == "--config" and Path(value).is_file():
            check_keys(read_yaml(Path(value)), value)


def check_keys(content: Any, where: Path | str) -> None:
    """Refuse a configuration, or overrides, in which a key has another name now.

    Args:
        content: nested mappings; a key may be dotted.
        where: what holds them, such as a file.

    Raises:
        DataError: naming every old key with its new name.
    """
    if said := _new_names(_dotted(content)):
        raise DataError.at(where, "", said, "rename the keys")


def _dotted(content: Any) -> Iterator[str]:
    """Yield the keys of a configuration as an override would name them."""
    for key, value in content.items() if isinstance(content, dict) else ():
        yield str(key)
        yield from (f"{key}.{below}" for below in _dotted(value))


def _new_names(keys: Iterable[str]) -> str:
    """Name the new key of each old one among dotted keys; empty where none is old."""
    old = dict.fromkeys(name for key in keys for name in _old_names(key))
    return ", ".join(f"{name} is now {RENAMED[name]}" for name in old)


def _old_names(key: str) -> list[str]:
    """List the old names that a dotted key begins with or, for the data of a part of the model, contains."""
    whole = f".{'.'.join(part for part in key.split('.') if part != 'init_args')}."
    return [name for name in RENAMED if f".{name}." in whole]
