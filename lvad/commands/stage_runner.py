"""Running of one stage of a pipeline or study: skip a finished fit, resume an interrupted one, replace a stale one."""

import contextlib
import fcntl
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from lvad.commands.global_options import global_option_args
from lvad.commands.pipeline_config import REPLACED, Record, why_stale
from lvad.data.reading import read_json
from lvad.errors import DataError
from lvad.report.runs import CONFIG, METRICS, MODEL, best_checkpoint, write_atomically

RECORD: Final = "stage.json"

LogLine = Callable[[str], None]
RunProcess = Callable[[list[str]], int]
"""Runs ``lvad ARGS`` in a process of its own; returns its exit code."""


class StageRequest(NamedTuple):
    """A stage that is to be fitted and tested, with its folder."""

    name: str
    """Name of the stage, for messages."""
    folder: Path
    record: Record
    """The record of a fit that begins now."""
    test: bool
    """Run ``lvad test`` after the fit."""


def run_stage(request: StageRequest, log_line: LogLine, run: RunProcess) -> Record:
    """Fit and test a stage, unless that is done already.

    Args:
        request: the stage.
        log_line: takes a line of what is done and why.
        run: starts a process.

    Returns:
        The record of the finished stage.

    Raises:
        DataError: if it fails, naming it, its exit code and the command to repeat.
    """
    name, folder, record, test = request
    known = read_record(folder)
    reason = why_stale(known, record)
    if not reason and known is not None and is_complete(folder, known):
        log_line(f"fit skipped: finished at {known.finished}")
        record = known
    else:
        record = _fit(request, reason, log_line, run)
    if not test:
        return record
    if record.test_s is not None:
        log_line("test skipped: done after the fit")
        return record
    return _write_record(folder, record._replace(test_s=run_timed(name, test_args(folder), log_line, run)))


def _fit(request: StageRequest, reason: str, log_line: LogLine, run: RunProcess) -> Record:
    name, folder, record, _ = request
    last = folder / "checkpoints/last.ckpt"
    is_resumed = not reason and last.exists()
    if is_resumed:
        log_line(f"fit goes on from {last}: it was broken off")
    else:
        log_line(f"fit: {reason or 'it was broken off before its first checkpoint, or its model is gone'}")
        _archive_previous(folder, log_line)
    _write_record(folder, record)
    seconds = run_timed(name, [*record.command, *(["--ckpt_path", str(last)] if is_resumed else [])], log_line, run)
    finished = record._replace(finished=datetime.now(UTC).isoformat(), fit_s=seconds)
    if not is_complete(folder, finished):
        raise DataError(f"stage {name!r} left no {MODEL}/ and {METRICS} in {folder}; its export must be on")
    return _write_record(folder, finished)


def test_args(folder: Path) -> list[str]:
    """Write the arguments of ``lvad`` that test a finished stage."""
    return ["test", "--config", str(folder / CONFIG), "--ckpt_path", str(best_checkpoint(folder))]


def is_complete(folder: Path, record: Record) -> bool:
    """Whether a fit ended and its files are still there."""
    return record.finished is not None and (folder / MODEL).is_dir() and (folder / METRICS).is_file()


def read_record(folder: Path) -> Record | None:
    """Read the record in a stage's folder; None where there is none.

    Raises:
        DataError: if the file is no record.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    content: dict[str, Any] = read_json(path, dict)
    needed = set(Record._fields) - set(Record._field_defaults)
    if not needed <= set(content) <= set(Record._fields):
        raise DataError.at(
            path, "", f"must hold {list(Record._fields)}", "move its folder away, and the stage runs again"
        )
    return Record(**content)


def _write_record(folder: Path, record: Record) -> Record:
    write_atomically(folder / RECORD, json.dumps(record._asdict(), indent=2) + "\n")
    return record


def _archive_previous(folder: Path, log_line: LogLine) -> None:
    """Move an earlier fit into ``replaced/``, or delete one that never reached a checkpoint.

    Raises:
        DataError: if the folder holds something else than a stage of a pipeline.
    """
    if not folder.exists():
        return
    if not (folder / "checkpoints").is_dir() and not (folder / MODEL).is_dir():
        if not (folder / RECORD).is_file() and any(folder.iterdir()):
            problem = f"holds files, but no {RECORD}: no pipeline made it"
            raise DataError.at(folder, "", problem, "move it away, or choose another root or name")
        shutil.rmtree(folder)
        return
    parent = folder.parent / REPLACED
    parent.mkdir(exist_ok=True)
    number = next(n for n in range(1, sys.maxsize) if not (parent / f"{folder.name}-{n}").exists())
    folder.rename(parent / f"{folder.name}-{number}")
    log_line(f"the earlier one was moved to {parent / f'{folder.name}-{number}'}")


def run_timed(name: str, args: list[str], log_line: LogLine, run: RunProcess) -> float:
    """Run ``lvad ARGS`` in a process of its own, and return its wall seconds.

    Raises:
        DataError: if it fails.
    """
    line = shlex.join(["lvad", *args])
    log_line(f"$ {line}")
    start_s = time.perf_counter()
    code = run(args)
    if code:
        kept = "what is finished is kept: the command that you gave goes on from there"
        raise DataError(f"stage {name!r} ended with exit code {code}; to repeat it alone: {line} ({kept})")
    return time.perf_counter() - start_s


def lvad_command(args: list[str]) -> list[str]:
    """Write the command of a process that runs ``lvad ARGS`` with the global options of this one."""
    return [sys.executable, "-m", "lvad.cli", *args, *global_option_args()]


def run_process(command: list[str], pass_fds: Sequence[int] = ()) -> int:
    """Run a command to its end; a signal to this process is passed on, and the command writes its checkpoint.

    Args:
        command: what to run.
        pass_fds: file descriptors that it holds too.

    Returns:
        Its exit code.
    """
    process = subprocess.Popen(command, pass_fds=pass_fds)
    try:
        return process.wait()
    except BaseException:
        process.send_signal(signal.SIGTERM)  # Ctrl-C has reached it as well, SIGTERM has not
        try:
            process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        raise


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[int]:
    """Lock the folder of a pipeline or study, so that no second process works in it.

    Raises:
        DataError: if another pipeline, or a stage that outlived its own, is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"a pipeline or one of its stages is at work in {folder}; wait for it or end it") from error
        yield file.fileno()


def run_until_signal(what: str, work: Callable[[], int]) -> int:
    """Run stages until they are done, or until SIGTERM or Ctrl-C ends all running ones.

    Args:
        what: of the stages together, as it is told to a user: ``study``.
        work: runs them and returns the exit code.

    Returns:
        The exit code; that of a program ended by SIGINT after Ctrl-C.
    """
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return work()
    except KeyboardInterrupt:
        print(f"lvad: broken off; run the {what} again to go on", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)
