"""``lvad pipeline``: the whole method in one command, stage by stage, each in a process of its own.

A fresh process gives its memory back, and a stage run alone by the printed command gives the same result. Finished
stages are skipped, a killed one goes on from its last checkpoint, a changed one runs again with all that is built on
it; what it replaces is moved to ``replaced/``, never deleted.
"""

import contextlib
import fcntl
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from jsonargparse import ArgumentParser

from lvad.assets import resolve_config
from lvad.commands.flags import given_flags
from lvad.commands.one_line import in_one_line
from lvad.commands.stage_plan import REPLACED, Pipeline, Record, Stage, expected_record, read_pipeline, why_stale
from lvad.commands.trust import parsed
from lvad.data.records import DataError, read_json
from lvad.report.runs import CONFIG, METRICS, MODEL, best_checkpoint, write_whole

RECORD: Final = "stage.json"
SUMMARY: Final = "pipeline.json"


def make_parser() -> ArgumentParser:
    """The options of ``lvad pipeline``."""
    parser = ArgumentParser(prog="lvad pipeline", description=__doc__, exit_on_error=False)
    add = parser.add_argument
    add("--config", default="configs/pipeline.yaml", help="stages in order, and what is compared")
    add(
        "--seed",
        type=int | None,
        help="seed_everything and data.seed of every stage; the file's, or each configuration's",
    )
    add("--name", type=str | None, help="folder under the file's root")
    return parser


@in_one_line
def run(args: list[str]) -> int:
    """Run ``lvad pipeline ARGS`` and return the exit code."""
    config = parsed(make_parser(), args)
    # Ends the stage that is at work as well, as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        pipeline = read_pipeline(resolve_config(config.config), seed=config.seed, name=config.name)
        with _alone(pipeline.folder) as lock:
            run_pipeline(pipeline, lock)
    except KeyboardInterrupt:
        print("lvad: broken off; run the pipeline again to go on", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def run_pipeline(pipeline: Pipeline, lock: int | None = None) -> None:
    """Run what is not done yet, then compare.

    Args:
        pipeline: what to run.
        lock: a file descriptor that stages hold too, so that a stage whose pipeline was killed still holds it.

    Raises:
        DataError: if a stage fails, naming it, its exit code and the command to repeat.
    """
    records: dict[str, Record] = {}
    for number, stage in enumerate(pipeline.stages, start=1):
        _say(f"stage {number} of {len(pipeline.stages)}, {stage.name}")
        records[stage.name] = _run_stage(pipeline, stage, records, lock)
        _write_summary(pipeline, records)
    if pipeline.compare:
        from lvad.commands.report import report  # takes seconds to import, and the first stage need not wait for it

        print()
        report({arm: pipeline.folder / name for arm, name in pipeline.compare.items()}, pipeline.folder)
    _print_times(pipeline, records)


def _run_stage(pipeline: Pipeline, stage: Stage, records: dict[str, Record], lock: int | None) -> Record:
    folder = pipeline.folder / stage.name
    known, record = read_record(folder), expected_record(pipeline, stage, records)
    reason = why_stale(known, record)
    if not reason and known is not None and is_whole(folder, known):
        _say(f"fit skipped: finished at {known.finished}")
        record = known
    else:
        record = _fit(stage, folder, record, reason, lock)
    if not stage.test:
        return record
    if record.test_s is not None:
        _say("test skipped: done after the fit")
        return record
    seconds = _call(stage, test_args(folder), lock)
    return _write_record(folder, record._replace(test_s=seconds))


def _fit(stage: Stage, folder: Path, record: Record, reason: str, lock: int | None) -> Record:
    last = folder / "checkpoints/last.ckpt"
    is_resumed = not reason and last.exists()
    if is_resumed:
        _say(f"fit goes on from {last}: it was broken off")
    else:
        _say(f"fit: {reason or 'it was broken off before its first checkpoint, or its model is gone'}")
        _clear(folder)
    _write_record(folder, record)
    seconds = _call(stage, [*record.command, *(["--ckpt_path", str(last)] if is_resumed else [])], lock)
    finished = record._replace(finished=datetime.now(UTC).isoformat(), fit_s=seconds)
    if not is_whole(folder, finished):
        raise DataError(f"stage {stage.name!r} left no {MODEL}/ and {METRICS} in {folder}; its export must be on")
    return _write_record(folder, finished)


def test_args(folder: Path) -> list[str]:
    """What is typed after ``lvad`` to test a finished stage."""
    return ["test", "--config", str(folder / CONFIG), "--ckpt_path", str(best_checkpoint(folder))]


def is_whole(folder: Path, record: Record) -> bool:
    """Whether a fit ended and what it left is still there."""
    return record.finished is not None and (folder / MODEL).is_dir() and (folder / METRICS).is_file()


def read_record(folder: Path) -> Record | None:
    """The record in a stage's folder; None where there is none.

    Raises:
        DataError: if the file is no record.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    content: dict[str, Any] = read_json(path, dict)
    if set(content) != set(Record._fields):
        raise DataError.at(
            path, "", f"must hold {list(Record._fields)}", "move its folder away, and the stage runs again"
        )
    return Record(**content)


def _write_record(folder: Path, record: Record) -> Record:
    write_whole(folder / RECORD, json.dumps(record._asdict(), indent=2) + "\n")
    return record


def _clear(folder: Path) -> None:
    """Move an earlier fit out of the way; what never reached a checkpoint is not worth keeping.

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
    _say(f"the earlier one was moved to {parent / f'{folder.name}-{number}'}")


def _call(stage: Stage, args: list[str], lock: int | None) -> float:
    """Run ``lvad ARGS`` in a process of its own; returns its wall seconds.

    Raises:
        DataError: if it fails.
    """
    line = shlex.join(["lvad", *args])
    _say(f"$ {line}")
    sys.stdout.flush()
    start_s = time.perf_counter()
    command = [sys.executable, "-m", "lvad.cli", *args, *given_flags()]
    code = run_process(command, () if lock is None else (lock,))
    if code:
        kept = "what is finished is kept: run the pipeline again to go on"
        raise DataError(f"stage {stage.name!r} ended with exit code {code}; to repeat it alone: {line} ({kept})")
    return time.perf_counter() - start_s


def run_process(command: list[str], pass_fds: Sequence[int] = ()) -> int:
    """Run a command to its end; what ends this process ends it too, once it has written its checkpoint.

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
def _alone(folder: Path) -> Iterator[int]:
    """Hold the pipeline's folder.

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


def _write_summary(pipeline: Pipeline, records: dict[str, Record]) -> None:
    rows = []
    for name, record in records.items():
        folder = pipeline.folder / name
        tests = ["lvad", *test_args(folder)] if record.test_s is not None else None
        rows.append(
            {
                "name": name,
                "folder": str(folder),
                "command": shlex.join(["lvad", *record.command]),
                "seconds": record.fit_s,
                "test_command": None if tests is None else shlex.join(tests),
                "test_seconds": record.test_s,
            }
        )
    summary = {"name": pipeline.name, "seed": pipeline.seed, "compare": pipeline.compare, "stages": rows}
    write_whole(pipeline.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")


def _print_times(pipeline: Pipeline, records: dict[str, Record]) -> None:
    print("\nwall seconds and folders:")
    for name, record in records.items():
        test = "" if record.test_s is None else f", test {record.test_s:.0f}"
        print(f"  {name}: fit {record.fit_s or 0:.0f}{test}: {pipeline.folder / name}")
    print(f"pipeline: {pipeline.folder}, commands and seconds in {pipeline.folder / SUMMARY}")
    if pipeline.compare:
        first = pipeline.folder / next(iter(pipeline.compare.values()))
        source = ["--config", str(first / CONFIG), "--ckpt_path", str(best_checkpoint(first))]
        print(f"next: lvad predict PATH {shlex.join(source)}")


def _say(text: str) -> None:
    print(f"lvad: {text}")
