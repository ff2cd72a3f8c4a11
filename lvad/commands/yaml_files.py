"""YAML files, read as plain data within bounds of length and depth."""

from pathlib import Path
from typing import Any, Final

import yaml

from lvad.data.reading import read_text
from lvad.errors import DataError

_MAX_CHARS: Final = 2**20
_MAX_NODES: Final = 20_000
_MAX_DEPTH: Final = 50
_REMEDY: Final = "correct the file, or restore it from its source"
# Beside its own errors: what PyYAML's constructors of numbers, dates and booleans raise, and too many brackets.
_BROKEN: Final = (yaml.YAMLError, ValueError, KeyError, IndexError, AttributeError, RecursionError)


def read_yaml(path: Path) -> Any:
    """Read a YAML file as data; nothing is imported here (what a configuration names is, see ``security``).

    Raises:
        DataError: if it cannot be read, is not YAML, or is larger than any configuration: too long, too deep, or with
            aliases that repeat one another, of which a few lines make millions of entries or an endless one.
    """
    text = read_text(path)
    if len(text) > _MAX_CHARS:
        raise DataError.at(path, "", f"has {len(text):,} characters, more than {_MAX_CHARS:,}", _REMEDY)
    try:
        content = yaml.safe_load(text)
    except _BROKEN as error:
        raise DataError.at(path, "", f"is not YAML: {' '.join(str(error).split())}", _REMEDY) from error
    _check_num_nodes(content, path)
    return content


def _check_num_nodes(content: Any, path: Path) -> None:
    waiting, num_nodes = [(content, 1)], 0
    while waiting:
        node, depth = waiting.pop()
        num_nodes += 1
        if num_nodes > _MAX_NODES or depth > _MAX_DEPTH:
            problem = f"unfolds to more than {_MAX_NODES:,} entries or {_MAX_DEPTH} levels"
            raise DataError.at(path, "", problem, "write it without aliases (*name) inside aliases")
        parts = [*node, *node.values()] if isinstance(node, dict) else node if isinstance(node, list | set) else ()
        waiting += [(part, depth + 1) for part in parts]
