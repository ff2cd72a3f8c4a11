"""Lvad's own command line inside this process, and what came of it."""

import contextlib
import io
import json
import sys
import time
import traceback
from pathlib import Path

import torch

from gpu_bench.rows import Row
from lvad.cli import main

QUIET = ["--trainer.enable_progress_bar", "false"]


def job(name: str, args: list[str], leaves: Path | None = None) -> Row:
    """A row for ``lvad ARGS``: whether its exit code was 0, else what it said.

    Args:
        name: of the row.
        args: of the command.
        leaves: a file; where it is written the command did its work, whatever its exit code says of what it found.
    """
    said, start_s = io.StringIO(), time.perf_counter()
    print(f"== {name}: lvad {' '.join(args)}", flush=True)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main(args)
        worked = leaves.is_file() if leaves else code == 0
        note = "" if worked else f"exit code {code}: {_error(said.getvalue())}"
    except BaseException as error:  # a parser's SystemExit too
        traceback.print_exc()
        note = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{_place(error)}"
    print(said.getvalue(), note, sep="\n", file=sys.stderr, flush=True)
    return Row(name, {"seconds": time.perf_counter() - start_s}, not note, note)


def _error(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "error" in line.lower()), (lines or [""])[-1])[:300]


def _place(error: BaseException) -> str:
    own = [f for f in traceback.extract_tb(error.__traceback__) if "/lvad/" in f.filename]
    return f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


def accelerator() -> list[str]:
    """Where the trainer runs."""
    return ["--trainer.accelerator", "gpu" if torch.cuda.is_available() else "cpu"]


def run_folder(stage: str) -> Path:
    """The newest run of a stage below this folder.

    Raises:
        FileNotFoundError: if there is none.
    """
    runs = sorted(Path("logs").glob(f"{stage}/version_*"), key=lambda run: run.stat().st_mtime)
    if not runs:
        raise FileNotFoundError(f"no run of {stage} in {Path('logs').resolve()}")
    return runs[-1]


def metrics(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())
