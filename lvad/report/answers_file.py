"""``answers.jsonl``: the answer to every test scene, one JSON line each, which later comparisons read."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from lvad.report.runs import write_atomically
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.types import AnsweredScene

ANSWERS: Final = "answers.jsonl"

_TEXTS: Final = ("id", "description", "text", "recording")
_LABELS: Final = ("actions", "reasons", "true_actions", "true_reasons")
_PROBABILITIES: Final = ("action_probabilities", "reason_probabilities")


class LabelMatrices(NamedTuple):
    """The labels of N answered scenes, L = A + R columns: the actions, then the reasons."""

    true: Tensor
    """int64[N, L]."""
    predicted: Tensor
    """int64[N, L]."""
    num_unlabelled: int
    """Scenes left out because their actions or reasons are unknown."""


def label_matrices(answered: Iterable[AnsweredScene], num_labels: int) -> LabelMatrices:
    """Stack the L labels of the scenes that have true ones."""
    true, predicted, num_unlabelled = [], [], 0
    for scene in answered:
        if scene.true_actions is None or scene.true_reasons is None:
            num_unlabelled += 1
            continue
        true.append([*scene.true_actions, *scene.true_reasons])
        predicted.append([*scene.actions, *scene.reasons])
    shape = len(true), num_labels
    stacked = [torch.tensor(rows, dtype=torch.int64).reshape(shape) for rows in (true, predicted)]
    return LabelMatrices(stacked[0], stacked[1], num_unlabelled)


def write_answers(path: Path, answered: Iterable[AnsweredScene], taxonomy: Taxonomy = BDD_OIA) -> Path:
    """Write one line per scene, the whole file or none of it.

    Args:
        path: a ``.jsonl``; its folder is made if missing.
        answered: ids and texts may hold anything.
        taxonomy: how many labels there are.

    Returns:
        The path.

    Raises:
        ValueError: for an entry or a repeated id that ``read_answers`` would refuse; the file stays as it was.
    """
    lines: list[str] = []
    known: set[str] = set()
    for scene in answered:
        row = scene._asdict()
        if flaw := _flaw(row, taxonomy):
            raise ValueError(f"scene {scene.id!r}: {flaw}")
        if scene.id in known:
            raise ValueError(f"scene {scene.id!r}: two answers have this id, and could not be paired by it")
        known.add(scene.id)
        # ASCII only: a text may hold half a surrogate pair, which UTF-8 cannot carry and \udXXX can.
        lines.append(json.dumps(row) + "\n")
    write_atomically(path, "".join(lines))
    return path


def read_answers(path: Path, taxonomy: Taxonomy = BDD_OIA) -> list[AnsweredScene]:
    """Read a file of ``write_answers``; every entry is equal to what was written.

    Args:
        path: the ``.jsonl``.
        taxonomy: how many labels there are.

    Returns:
        The scenes in the order of the file; their ids are all different, so that two files pair by id.

    Raises:
        ValueError: naming file and line, for a line that is not an answered scene and for a repeated id.
        FileNotFoundError: if there is no such file.
    """
    answered: list[AnsweredScene] = []
    line_of: dict[str, int] = {}
    with path.open("rb") as lines:  # bytes, so that a line that is no UTF-8 is named as well
        for number, line in enumerate(lines, start=1):
            scene = _read_line(line, f"{path}, line {number}", taxonomy)
            if scene.id in line_of:
                raise ValueError(f"{path}, line {number}: id {scene.id!r} stands on line {line_of[scene.id]} already")
            line_of[scene.id] = number
            answered.append(scene)
    return answered


def _read_line(line: bytes, where: str, taxonomy: Taxonomy) -> AnsweredScene:
    try:
        row: Any = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where} must hold a JSON object, got {type(row).__name__}")
    if flaw := _flaw(row, taxonomy):
        raise ValueError(f"{where}: {flaw}")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return AnsweredScene(**values)


def _flaw(row: dict[str, Any], taxonomy: Taxonomy) -> str:
    """Say what is wrong with the entries of a scene; empty where nothing is."""
    row = AnsweredScene._field_defaults | row  # a file of an earlier lvad names no recordings
    missing = [name for name in AnsweredScene._fields if name not in row]
    unknown = [name for name in row if name not in AnsweredScene._fields]
    if missing or unknown:
        return f"must have the entries of an AnsweredScene, lacks {missing}, has {unknown!r:.80} too"
    for name in _TEXTS:
        if not isinstance(row[name], str):
            return f"{name} must be a text, got {row[name]!r:.80}"
    if not isinstance(row["is_valid"], bool):
        return f"is_valid must be true or false, got {row['is_valid']!r:.80}"
    for name in _LABELS:
        length, is_true = _length(name, taxonomy), name.startswith("true_")
        is_unlabelled = row[name] is None and is_true
        if not is_unlabelled and not _are_flags(row[name], length):
            allowed = f"{length} zeros and ones" + (" or null" if is_true else "")
            return f"{name} must be {allowed}, got {row[name]!r:.80}"
    for name in _PROBABILITIES:
        length = _length(name, taxonomy)
        if row[name] not in ([], ()) and not _are_probabilities(row[name], length):
            return f"{name} must be empty or {length} numbers in [0, 1], got {row[name]!r:.80}"
    return ""


def _length(name: str, taxonomy: Taxonomy) -> int:
    return taxonomy.num_actions if "action" in name else taxonomy.num_reasons


def _are_flags(values: Sequence[Any] | None, length: int) -> bool:
    # type(), because true == 1 in Python and a file that says true was not written here
    return _is_list(values, length) and all(type(value) is int and value in (0, 1) for value in values or ())


def _are_probabilities(values: Sequence[Any] | None, length: int) -> bool:
    are_numbers = _is_list(values, length) and all(type(value) in (int, float) for value in values or ())
    return are_numbers and all(0 <= value <= 1 for value in values or ())  # NaN is neither


def _is_list(values: Sequence[Any] | None, length: int) -> bool:
    return isinstance(values, list | tuple) and len(values) == length
