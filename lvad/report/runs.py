"""Run folders: ``logs/<stage>/version_<n>/`` with the configuration, the checkpoints and the numbers of one run."""

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from lvad.data.reading import read_json
from lvad.errors import DataError
from lvad.taxonomy import FILE
from lvad.types import Table

LOGS: Final = Path("logs")
"""Where ``lvad test`` looks for the newest run."""
CONFIG: Final = "config.yaml"
METRICS: Final = "metrics.json"
SAMPLES: Final = "samples.jsonl"
CURVE: Final = "reward_curve.png"
LOSSES: Final = "loss_curve.png"
TABLES: Final = "tables.md"
MODEL: Final = "model"
TEST: Final = "lvad test"
REASONS_SCORED: Final = "test/reason_macro_f1"
"""A metric that only runs have whose stage was asked for reasons, whatever its answers name."""

_OF_A_START: Final = (
    "config.yaml",
    "hparams.yaml",
    "ledger.json",
    FILE,
    "samples.jsonl",
    "*.tfevents.*",
    "*_confusion_roc.png",
)
"""The files that a fit writes before its first step."""
_CHECKPOINTS: Final = ("best.ckpt", "last.ckpt")  # in order of preference


def newest_run(logs: Path, stage: str | None = None) -> Path:
    """Find the run that last wrote a checkpoint.

    Args:
        logs: the folder of all runs.
        stage: the folder of one stage inside it; None searches all.

    Returns:
        A run folder that holds a configuration and a checkpoint.

    Raises:
        FileNotFoundError: if there is none.
    """
    pattern = f"{stage or '*'}/*"
    runs = [(_age(run), run) for run in logs.glob(pattern) if (run / CONFIG).is_file() and _checkpoints(run)]
    if not runs:
        raise FileNotFoundError(
            f"no finished run: looked for {logs / pattern / CONFIG} beside checkpoints/best.ckpt or last.ckpt; "
            "start one with 'lvad fit --config configs/rloo.yaml', or name a checkpoint with --ckpt_path"
        )
    return max(runs)[1]


def best_checkpoint(run: Path) -> Path:
    """Find the checkpoint with the best monitored value, else the last one.

    Raises:
        FileNotFoundError: if the run has neither.
    """
    found = _checkpoints(run)
    if not found:
        raise FileNotFoundError(f"no checkpoint: looked for {' and '.join(_CHECKPOINTS)} in {run / 'checkpoints'}")
    return found[0]


def command_to_test(run: Path) -> str:
    """Write the shortest command that tests a run that has just ended."""
    if run.resolve().parent.parent == LOGS.resolve() and (run / CONFIG).is_file():
        return TEST
    return f"{TEST} --config {run / CONFIG} --ckpt_path {best_checkpoint(run)}" if _checkpoints(run) else TEST


def remove_unstarted_run(run: Path) -> None:
    """Remove the folder of a run that ended before its first step, unless it holds other files."""
    found = list(run.iterdir()) if run.is_dir() else []
    if found and all(file.is_file() and any(file.match(pattern) for pattern in _OF_A_START) for file in found):
        for file in found:
            file.unlink()
        run.rmdir()


def update_metrics(run: Path, metrics: Mapping[str, float]) -> Path:
    """Merge numbers into the run's ``metrics.json``: the whole file is replaced, or none of it.

    Args:
        run: the run folder; made if missing.
        metrics: flat keys ``group/name``. Other keys of the file stay; NaN and infinities become null, which
            every JSON reader understands.

    Returns:
        The file.

    Raises:
        ValueError: for a key without a group, or a file that ``read_metrics`` refuses, which stays as it is.
    """
    flat = [name for name in metrics if "/" not in name]
    if flat:
        raise ValueError(f"metric keys must be group/name, got {flat}")
    path = run / METRICS
    known = read_metrics(run)
    known |= {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}
    write_atomically(path, json.dumps(known, indent=2, sort_keys=True) + "\n")
    return path


def read_metrics(run: Path) -> dict[str, float | None]:
    """Read the numbers of a run; there are none without a ``metrics.json``.

    Raises:
        DataError: if the file holds anything but finite numbers and nulls.
    """
    path = run / METRICS
    known: dict[str, Any] = read_json(path, dict) if path.is_file() else {}
    for name, value in known.items():
        # An integer may be larger than any float; NaN is smaller than nothing.
        if value is not None and not (type(value) in (int, float) and abs(value) <= sys.float_info.max):
            problem = f"{name!r:.80} must be a finite number or null, got {value!r:.80}"
            raise DataError.at(path, "", problem, "move the file away, and test the run anew")
    return known


def write_tables(run: Path, tables: Iterable[Table]) -> Path:
    """Write tables as Markdown into the run folder.

    Returns:
        The file.
    """
    write_atomically(run / TABLES, "\n".join(markdown(table) for table in tables))
    return run / TABLES


def markdown(table: Table) -> str:
    """Write a table with its title as Markdown."""
    lines = [table.columns, tuple("---" for _ in table.columns), *table.rows]
    return f"## {table.title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def summary_of_test(metrics: Mapping[str, float], tables: Iterable[Table]) -> str:
    """Write what ``lvad test`` prints at its end: the scores over all scenes, then the tables.

    Args:
        metrics: of the test; those of single labels or constant answers ("test/a/b") are left to ``metrics.json``.
        tables: the run's own.
    """
    whole = {name: value for name, value in metrics.items() if name.count("/") == 1 and name[:5] == "test/"}
    width = max(map(len, whole), default=0)
    lines = [f"{name:{width}}  {value:.4f}" for name, value in sorted(whole.items())]
    return "\n".join(["", *lines, "", *(markdown(table) for table in tables)])


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step, so that neither a reader nor a crash finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.tmp")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _checkpoints(run: Path) -> list[Path]:
    folder = run / "checkpoints"
    # A sharded checkpoint is a folder, so exists() and not is_file().
    return [folder / name for name in _CHECKPOINTS if (folder / name).exists()]


def _age(run: Path) -> int:
    return max((c.stat().st_mtime_ns for c in _checkpoints(run)), default=0)
