"""The finished cells of a study, read from their run folders."""

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from lvad.commands.pipeline_config import Record, why_stale
from lvad.commands.stage_runner import LogLine, RunProcess, is_complete, read_record, run_timed, test_args
from lvad.commands.study_plan import Cell, Job, Plan, Study, repeat_args
from lvad.data.ledger import labelled_ids, ledger_of_run
from lvad.data.reading import read_json
from lvad.errors import DataError
from lvad.report.answers_file import ANSWERS
from lvad.report.compare_answers import read_run
from lvad.report.runs import write_atomically
from lvad.report.study_findings import TEST, CellResult, score

EXTRA: Final = "extra_test"
"""Name of the second test: of its folder within the run's, and of its set of scenes."""
_DONE: Final = "test.json"


def fitted_records(plan: Plan) -> dict[Path, Record]:
    """Return the records of the stages whose fits, and those of their inputs, are finished as planned."""
    records: dict[Path, Record] = {}
    for folder, job in plan.jobs.items():
        known = read_record(folder)
        if known is None or not is_complete(folder, known) or any(place not in records for place in job.inputs):
            continue
        if not why_stale(known, job.record(records)):
            records[folder] = known
    return records


def finished_records(plan: Plan) -> dict[Path, Record]:
    """Return those of ``fitted_records`` that are also tested, where the plan asks for a test."""
    return {
        folder: record
        for folder, record in fitted_records(plan).items()
        if record.test_s is not None or not plan.jobs[folder].test
    }


def extra_test_args(study: Study, folder: Path) -> list[str]:
    """Write the arguments of ``lvad`` that test a finished stage on the extra scenes, into its own folder."""
    place = ["--recorder.run_dir", str(folder / EXTRA), "--trainer.logger", "false"]
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in study.extra_test.items()}
    return [*test_args(folder), *place, *(text for key, value in texts.items() for text in (f"--{key}", value))]


def run_extra_test(study: Study, job: Job, record: Record, log_line: LogLine, run: RunProcess) -> None:
    """Test a finished stage on the extra scenes, unless that is done.

    Raises:
        DataError: if it fails.
    """
    if has_extra_test(study, job.folder, record):
        return
    args = extra_test_args(study, job.folder)
    run_timed(job.name, args, log_line, run)
    write_atomically(job.folder / EXTRA / _DONE, json.dumps({"command": args, "of": record.finished}, indent=2) + "\n")


def has_extra_test(study: Study, folder: Path, record: Record) -> bool:
    """Whether the extra test of the present fit was made as it is configured now."""
    path = folder / EXTRA / _DONE
    return path.is_file() and read_json(path, dict) == {
        "command": extra_test_args(study, folder),
        "of": record.finished,
    }


def read_cells(study: Study, plan: Plan, config: str) -> Iterator[CellResult]:
    """Yield the results of the finished cells, in the plan's order.

    Args:
        study: the whole.
        plan: its stages and cells.
        config: the study's file, as it is typed.

    Raises:
        DataError: for answers that cannot be read, or without labels.
    """
    records = fitted_records(plan)
    for cell in plan.cells:
        # A stage that is one arm's result can be a step of another arm, which needs no test of it.
        if cell.folder in records and records[cell.folder].test_s is not None:
            yield _read_cell(study, plan, cell, records, config)


def _read_cell(study: Study, plan: Plan, cell: Cell, records: Mapping[Path, Record], config: str) -> CellResult:
    folder, record = cell.folder, records[cell.folder]
    places = {TEST: folder}
    if study.extra_test and has_extra_test(study, folder, record):
        places[EXTRA] = folder / EXTRA
    runs = {source: read_run(place, source) for source, place in places.items()}
    answered, taxonomy = {source: run.answered for source, run in runs.items()}, runs[TEST].taxonomy
    if any(scene.true_reasons is None for scenes in answered.values() for scene in scenes):
        raise DataError.at(
            folder / ANSWERS, "", "has scenes without reasons", "let the arm's result have target: answer"
        )
    seconds = sum((records[place].fit_s or 0) + (records[place].test_s or 0) for place in cell.chain)
    return CellResult(
        arm=cell.arm,
        budget=cell.budget,
        seed=cell.seed,
        folder=folder,
        labels=len(labelled_ids(ledger_of_run(folder))),
        seconds=round(seconds, 1),
        device=record.device,
        commit=record.commit,
        command=shlex.join(["lvad", *repeat_args(config, [cell])]),
        commands=[shlex.join(["lvad", *plan.jobs[place].command]) for place in cell.chain],
        answered=answered,
        scores={source: score(scenes, taxonomy) for source, scenes in answered.items()},
        taxonomy=taxonomy,
    )
