"""Read label sets from YAML files, with an error for every fault, and write them."""

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from lvad.taxonomy.label_set import Action, Contradiction, Reason, Taxonomy, check_distinct

FILE: Final = "taxonomy.yaml"
"""Name of the label set's file in the folder of a run or of an exported model."""
_HERE: Final = Path(__file__).parent
_SUFFIXES: Final = (".yaml", ".yml")
_MAX_BYTES: Final = 2**20

# The errors raised here, those of PyYAML's constructors of numbers, dates and booleans, and that of too many brackets.
_BROKEN: Final = (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError, RecursionError, yaml.YAMLError)

_ACTION_KEYS: Final = ("name", "mirror", "aliases", "question", "symbol")
_REASON_KEYS: Final = ("key", "text", "action", "supports", "mirror")
_CONTRADICTION_KEYS: Final = ("says", "reasons", "against")
_KEYS: Final = ("name", "constant", "actions", "exclusive", "reasons", "contradictions")


def load_taxonomy(name: str) -> Taxonomy:
    """Read a label set.

    Args:
        name: a ``.yaml`` file, or the name of one that ships with lvad.

    Raises:
        ValueError: naming the file, the label and what is wrong with it.
    """
    path = Path(name).expanduser() if name.endswith(_SUFFIXES) else _HERE / f"{name}.yaml"
    if not path.is_file():
        shipped = sorted(file.stem for file in _HERE.glob("*.yaml"))
        raise ValueError(f"no label set at {name!r}: give a .yaml file, or one of {shipped}, which ship with lvad")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it holds more than {_MAX_BYTES:,} bytes")
        return parse_taxonomy(yaml.safe_load(path.read_text(encoding="utf-8")))
    except _BROKEN as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"label set {path}: {problem}; docs/taxonomy.md says what a label set holds") from error


def find_taxonomy(folder: Path) -> Taxonomy | None:
    """Read the label set of a run or of an exported model; None where the folder holds none.

    Raises:
        ValueError: as ``load_taxonomy``.
    """
    return load_taxonomy(str(folder / FILE)) if (folder / FILE).is_file() else None


def dump_taxonomy(taxonomy: Taxonomy) -> str:
    """Return the text of a file that ``load_taxonomy`` reads as the same label set."""
    return yaml.safe_dump(taxonomy.as_dict(), sort_keys=False, allow_unicode=True, width=120)


def parse_taxonomy(content: Any) -> Taxonomy:
    """Make the label set from the content of its file, as ``Taxonomy.as_dict`` gives it.

    Raises:
        ValueError: naming the label and what is wrong with it.
    """
    rows = _mapping(content, "the file", _KEYS, needed=("name", "actions", "reasons"))
    actions = [_mapping(row, f"action {n}", _ACTION_KEYS, ("name",)) for n, row in enumerate(_list(rows, "actions"), 1)]
    reasons = [
        _mapping(row, f"reason {n}", _REASON_KEYS, ("key", "text", "action"))
        for n, row in enumerate(_list(rows, "reasons"), 1)
    ]
    of_action, of_reason = _Index("action", actions, "name"), _Index("reason", reasons, "key")
    return Taxonomy(
        name=_text(rows, "name", "the file"),
        actions=[_action(row, of_action) for row in actions],
        reasons=[_reason(row, of_action, of_reason) for row in reasons],
        constant=of_action.find(rows["constant"], "constant") if "constant" in rows else 0,
        exclusive=[_pair(pair, of_action) for pair in _list(rows, "exclusive")],
        contradictions=[_contradiction(row, of_reason) for row in _list(rows, "contradictions")],
    )


class _Index:
    """Finds the index of a label by its name.

    Args:
        kind: what a label is called in messages.
        rows: the rows of all labels.
        key: the key of a row that holds the name.
    """

    def __init__(self, kind: str, rows: Sequence[Mapping[str, Any]], key: str) -> None:
        self.kind, self.key = kind, key
        self.names = [_text(row, key, f"{kind} {number}") for number, row in enumerate(rows, 1)]
        check_distinct(f"{kind} {key}", self.names)

    def find(self, name: Any, what: str) -> int:
        """Return the index of the label that ``what`` names."""
        if not isinstance(name, str) or name not in self.names:
            raise ValueError(f"{what} names the {self.kind} {reprlib.repr(name)}, but there are {self.names}")
        return self.names.index(name)


def _action(row: Mapping[str, Any], of_action: _Index) -> Action:
    name = row["name"]
    where = f"action {name!r}"
    aliases = _list(row, "aliases", where)
    if not all(isinstance(alias, str) for alias in aliases):
        raise ValueError(f"{where}: aliases must be texts, got {reprlib.repr(aliases)}")
    return Action(
        name=name,
        mirror=of_action.find(row.get("mirror", name), f"mirror of {where}"),
        aliases=tuple(aliases),
        question=_text(row, "question", where, ""),
        symbol=_text(row, "symbol", where, "dot"),
    )


def _reason(row: Mapping[str, Any], of_action: _Index, of_reason: _Index) -> Reason:
    key = row["key"]
    where = f"reason {key!r}"
    supports = row.get("supports", True)
    if not isinstance(supports, bool):
        raise ValueError(f"{where}: supports must be true or false, got {reprlib.repr(supports)}")
    return Reason(
        key=key,
        text=_text(row, "text", where),
        action=of_action.find(row["action"], where),
        supports=supports,
        mirror=of_reason.find(row.get("mirror", key), f"mirror of {where}"),
    )


def _pair(names: Any, of_action: _Index) -> tuple[int, int]:
    if not isinstance(names, list) or len(names) != 2:
        raise ValueError(f"exclusive must hold pairs of actions, got {reprlib.repr(names)}")
    first, second = (of_action.find(name, "exclusive") for name in names)
    return first, second


def _contradiction(row: Any, of_reason: _Index) -> Contradiction:
    row = _mapping(row, "a contradiction", _CONTRADICTION_KEYS, _CONTRADICTION_KEYS)
    says = _text(row, "says", "a contradiction")
    sides = [tuple(of_reason.find(key, says) for key in _list(row, side, says)) for side in ("reasons", "against")]
    return Contradiction(says, *sides)


def _mapping(row: Any, where: str, known: Sequence[str], needed: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{where} must hold names and values, got {reprlib.repr(row)}")
    if unknown := [key for key in row if key not in known]:
        raise ValueError(f"{where} has {reprlib.repr(unknown)}, known are {list(known)}")
    if missing := [key for key in needed if key not in row]:
        raise ValueError(f"{where} lacks {missing}")
    return row


def _text(row: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = row.get(key, default)
    if not isinstance(value, str):
        remedy = "; put it in quotes" if isinstance(value, bool | int | float) else ""
        raise ValueError(f"{where}: {key} must be a text, got {reprlib.repr(value)}{remedy}")
    return value


def _list(row: Mapping[str, Any], key: str, where: str = "the file") -> list[Any]:
    value = row.get(key, [])
    if not isinstance(value, list):
        raise ValueError(f"{where}: {key} must be a list, got {reprlib.repr(value)}")
    return value
