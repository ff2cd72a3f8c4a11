"""``lvad pipeline``: the whole method in one command, stage by stage, each in a process of its own.

A fresh process gives its memory back, and a stage run alone by the printed command gives the same result. Finished
stages are skipped, a killed one goes on from its last checkpoint, a changed one runs again with all that is built on
it; what it replaces is moved to ``replaced/``, never deleted.
"""

import json
import shlex
import sys
from functools import partial
from typing import Final

from jsonargparse import ArgumentParser, Namespace

from lvad.assets import resolve_config
from lvad.commands.error_messages import report_user_errors
from lvad.commands.pipeline_config import Pipeline, Record, expected_record, read_pipeline
from lvad.commands.security import parse_command_line
from lvad.commands.stage_runner import (
    StageRequest,
    folder_lock,
    lvad_command,
    run_process,
    run_stage,
    run_until_signal,
    test_args,
)
from lvad.report.runs import CONFIG, best_checkpoint, write_atomically

SUMMARY: Final = "pipeline.json"


def make_parser() -> ArgumentParser:
    """Make the parser of ``lvad pipeline``'s options."""
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


@report_user_errors
def run(args: list[str]) -> int:
    """Run ``lvad pipeline ARGS`` and return the exit code."""
    config = parse_command_line(make_parser(), args)
    return run_until_signal("pipeline", partial(_run_config, config))


def _run_config(config: Namespace) -> int:
    pipeline = read_pipeline(resolve_config(config.config), seed=config.seed, name=config.name)
    with folder_lock(pipeline.folder) as lock:
        run_pipeline(pipeline, lock)
    return 0


def run_pipeline(pipeline: Pipeline, lock: int | None = None) -> None:
    """Run the stages that are not finished, then compare the arms.

    Args:
        pipeline: what to run.
        lock: a file descriptor that stages hold too, so that a stage whose pipeline was killed still holds it.

    Raises:
        DataError: if a stage fails, naming it, its exit code and the command to repeat.
    """
    records: dict[str, Record] = {}
    for number, stage in enumerate(pipeline.stages, start=1):
        _print_line(f"stage {number} of {len(pipeline.stages)}, {stage.name}")
        expected = expected_record(pipeline, stage, records)
        folder = pipeline.folder / stage.name
        records[stage.name] = run_stage(
            StageRequest(stage.name, folder, expected, stage.test), _print_line, partial(_run, lock)
        )
        _write_summary(pipeline, records)
    if pipeline.compare:
        from lvad.commands.report import report  # takes seconds to import, and the first stage need not wait for it

        print()
        report({arm: pipeline.folder / name for arm, name in pipeline.compare.items()}, pipeline.folder)
    _print_times(pipeline, records)


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
    write_atomically(pipeline.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")


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


def _run(lock: int | None, args: list[str]) -> int:
    sys.stdout.flush()
    return run_process(lvad_command(args), () if lock is None else (lock,))


def _print_line(text: str) -> None:
    print(f"lvad: {text}")
