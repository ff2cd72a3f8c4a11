"""Time that a study will take, from finished stages of the same kind, else from the estimates in its file."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lvad.commands.pipeline_config import Record
from lvad.commands.stage_runner import read_record
from lvad.commands.study_plan import Job, Plan, Study


class Cost(NamedTuple):
    """Estimated time of one unfinished stage, and where the estimate comes from."""

    seconds: float | None
    """Seconds of fit and test; None where there is no estimate."""
    source: str


def costs(study: Study, plan: Plan, done: Mapping[Path, Record]) -> dict[Path, Cost]:
    """Estimate the seconds of fit and test of each unfinished stage.

    Args:
        study: with its estimates.
        plan: all stages.
        done: records of the finished ones.
    """
    seen: dict[tuple[str, str], list[float]] = {}
    for folder, job in plan.jobs.items():
        record = done.get(folder) or read_record(folder)
        if record is not None and record.finished and record.fit_s:
            seen.setdefault((job.config, job.name), []).append(record.fit_s + (record.test_s or 0))
    return {
        folder: _cost(study, job, seen.get((job.config, job.name), []))
        for folder, job in plan.jobs.items()
        if folder not in done
    }


def _cost(study: Study, job: Job, seen: list[float]) -> Cost:
    if seen:
        return Cost(sum(seen) / len(seen), f"mean of {len(seen)} finished")
    for name in (job.name, job.config):
        if name in study.estimates:
            return Cost(study.estimates[name], "estimated in the file")
    return Cost(None, "unknown")


def plan_lines(study: Study, plan: Plan, done: Mapping[Path, Record], parallel: int) -> Iterator[str]:
    """Yield what ``--dry-run`` prints: every stage once, its command, and the total time."""
    each = costs(study, plan, done)
    users: dict[Path, list[str]] = {}
    for cell in plan.cells:
        for folder in cell.chain:
            users.setdefault(folder, []).append(cell.arm)
    for number, (folder, job) in enumerate(plan.jobs.items(), start=1):
        arms = ", ".join(dict.fromkeys(users[folder]))
        state = "done" if folder in done else f"to do, {format_duration(each[folder].seconds)} ({each[folder].source})"
        yield f"{number}. {folder.relative_to(study.folder)} (for {arms}): {state}"
        yield f"   $ {shlex.join(['lvad', *job.command])}"
    yield f"{len(plan.jobs)} stages for {len(plan.cells)} cells, of which {len(done)} are done"
    yield total_line(each, parallel)


def total_line(each: Mapping[Path, Cost], parallel: int) -> str:
    """Write how many stages remain, and how long they take with ``parallel`` at a time."""
    known = sum(cost.seconds for cost in each.values() if cost.seconds is not None)
    unknown = sum(cost.seconds is None for cost in each.values())
    line = f"to do: {len(each)} stages, {format_duration(known)}"
    line += f", about {format_duration(known / parallel)} with {parallel} at a time" if parallel > 1 else ""
    return line + (f"; unknown of {unknown} stages" if unknown else "")


def format_duration(seconds: float | None) -> str:
    """Write a duration in hours, minutes or seconds, whichever suits its length."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 7200 else f"{seconds / 3600:.1f} h"
