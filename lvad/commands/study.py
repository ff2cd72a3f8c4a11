"""``lvad study``: a grid of label budgets, seeds and arms; each cell is a run, and the results are compared.

Every stage is an ``lvad fit`` in a process of its own, several at a time; a stage that arms share is run once. A second
call continues where the first stopped. ``--arms``, ``--budgets`` and ``--seeds`` run a part, down to one cell.
"""

import os
import shlex
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lvad.assets import resolve_config
from lvad.commands.error_messages import report_user_errors
from lvad.commands.pipeline_config import Record
from lvad.commands.security import parse_command_line
from lvad.commands.stage_runner import StageRequest, folder_lock, lvad_command, run_stage, run_until_signal
from lvad.commands.study_costs import Cost, costs, format_duration, plan_lines, total_line
from lvad.commands.study_plan import Job, Plan, Study, make_plan, read_study, repeat_args
from lvad.commands.study_queue import Processes, Slot, run_queue
from lvad.commands.study_results import EXTRA, finished_records, read_cells, run_extra_test
from lvad.errors import DataError


def make_parser() -> ArgumentParser:
    """Make the parser of ``lvad study``'s options."""
    parser = ArgumentParser(prog="lvad study", description=__doc__, exit_on_error=False)
    add = parser.add_argument
    add("--config", default="configs/study/label_efficiency.yaml", help="budgets, seeds and arms")
    add("--arms", nargs="+", type=str, help="of the file; all if left out")
    add("--budgets", nargs="+", type=int, help="numbers of labels; the file's if left out")
    add("--seeds", nargs="+", type=int, help="the file's if left out")
    add("--parallel", type=int | None, help="stages at a time; the file's if left out")
    add("--dry-run", action="store_true", help="print the stages, their commands and what they cost, and run nothing")
    return parser


@report_user_errors
def run(args: list[str]) -> int:
    """Run ``lvad study ARGS`` and return the exit code."""
    given = parse_command_line(make_parser(), args)
    return run_until_signal("study", partial(_run, given))


def _run(given: Namespace) -> int:
    study = read_study(resolve_config(given.config))
    plan = make_plan(study, given.arms, given.budgets, given.seeds)
    parallel = study.parallel if given.parallel is None else given.parallel
    if parallel < 1:
        raise DataError(f"--parallel must be at least 1, got {parallel}")
    if given.dry_run:
        print("\n".join(plan_lines(study, plan, finished_records(plan), parallel)))
        return 0
    with folder_lock(study.folder) as lock:
        failed = _run_jobs(study, plan, parallel, lock)
        _report(study, plan, given.config)
    for folder, problem in failed.items():
        cells = [cell for cell in plan.cells if folder in cell.chain]
        again = shlex.join(["lvad", *repeat_args(given.config, cells)])
        print(f"lvad: error: {folder}: {problem}; to repeat: {again}", file=sys.stderr)
    return 1 if failed else 0


class _StageExecutor:
    """Runs the stages of a study, each in a thread."""

    def __init__(self, study: Study, processes: Processes, commit: str | None) -> None:
        self.study, self.processes, self.commit = study, processes, commit
        self.records: dict[Path, Record] = {}

    def __call__(self, job: Job, slot: Slot) -> None:
        """Fit a stage, test it, and test it on the extra scenes; skip the parts that are done."""
        log = job.folder.with_name(f"{job.folder.name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        log_line, run = partial(_append_to_log, log), partial(self._run, log, slot)
        expected = job.record(self.records)._replace(commit=self.commit, device=_device_name(slot))
        try:
            record = run_stage(StageRequest(job.name, job.folder, expected, job.test), log_line, run)
            if job.is_result and self.study.extra_test:
                run_extra_test(self.study, job, record, log_line, run)
        except DataError as error:
            raise DataError(f"{error}; {_last_line(log)} in {log}") from error
        self.records[job.folder] = record

    def _run(self, log: Path, slot: Slot, args: list[str]) -> int:
        return self.processes.run(lvad_command(args), slot.environment, log)


class _ProgressDisplay:
    """Shows the progress of a study: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, each: dict[Path, Cost], total: int, parallel: int) -> None:
        self.each, self.total, self.parallel, self.num_ended = each, total, parallel, 0
        self._started_s: dict[Path, float] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, disable=not sys.stdout.isatty())
        self._task = self.bar.add_task("stages", total=total)

    def started(self, job: Job) -> None:
        """Show that a stage has started."""
        self._started_s[job.folder] = time.perf_counter()
        if job.folder in self.each:
            self._print_line(f"started {_job_label(job)}")
        self._show()

    def ended(self, job: Job, problem: str) -> None:
        """Show how long a stage took, and how long the remaining ones will take."""
        self.num_ended += 1
        begun_s = self._started_s.pop(job.folder, None)
        is_new = self.each.pop(job.folder, None) is not None
        took = "" if begun_s is None else f" in {format_duration(time.perf_counter() - begun_s)}"
        if is_new or problem:
            self._print_line(
                f"{'FAILED' if problem else 'finished'} {_job_label(job)}{took}; {total_line(self.each, self.parallel)}"
            )
        self.bar.advance(self._task)
        self._show()

    def _show(self) -> None:
        names = ", ".join("/".join(folder.parts[-3:]) for folder in self._started_s)
        self.bar.update(self._task, description=names or "stages")

    def _print_line(self, text: str) -> None:
        line = f"lvad: [{self.num_ended}/{self.total}] {text}"
        if self.bar.disable:
            print(line, flush=True)
        else:
            self.bar.console.print(line, markup=False, highlight=False)


def _run_jobs(study: Study, plan: Plan, parallel: int, lock: int) -> dict[Path, str]:
    processes = Processes((lock,))
    done = finished_records(plan)
    display = _ProgressDisplay(costs(study, plan, done), len(plan.jobs), parallel)
    slots = [Slot(study.threads, device) for device in _devices(parallel)]
    with display.bar:
        return run_queue(plan.jobs, slots, _StageExecutor(study, processes, _commit()), display, processes.terminate)


def _report(study: Study, plan: Plan, config: str) -> None:
    """Write and print the results of all finished cells, of this call and of earlier ones."""
    from lvad.report.study_files import study_text, write_study
    from lvad.report.study_findings import (  # takes seconds to import, and the first stage need not wait for it
        TEST,
        summarise_cells,
    )

    whole = make_plan(study)
    both = Plan(whole.jobs | plan.jobs, list(dict.fromkeys([*whole.cells, *plan.cells])))
    cells = list(read_cells(study, both, config))
    if not cells:
        return
    findings = [summarise_cells(cells, study.references, TEST)]
    if further := [cell for cell in cells if EXTRA in cell.answered]:
        findings.append(summarise_cells(further, study.references, EXTRA))
    files = write_study(study.folder, study.name, cells, findings)
    print(f"\n{study_text(study.name, findings)}\nstudy: {', '.join(map(str, files))}")


def _devices(parallel: int) -> list[int | None]:
    """Choose the device of each stage that runs at a time: the GPUs in turn, None without a GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        known = [int(name) for name in visible.split(",") if name.strip().isdigit()]
    else:
        import torch

        known = list(range(torch.cuda.device_count()))
    return [known[i % len(known)] if known else None for i in range(parallel)]


def _device_name(slot: Slot) -> str:
    if slot.device is None:
        return f"cpu, {slot.threads} threads"
    import torch

    return torch.cuda.get_device_name(slot.device) if torch.cuda.is_available() else f"cuda:{slot.device}"


def _commit() -> str | None:
    """Return the commit of the code, where it lies in a repository."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None


_LOG = threading.Lock()


def _append_to_log(log: Path, text: str) -> None:
    with _LOG, log.open("a", encoding="utf-8") as file:
        file.write(f"lvad: {text}\n")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("lvad: error:")]
    return repr((errors or lines or [""])[-1][:300])


def _job_label(job: Job) -> str:
    return "/".join(job.folder.parts[-3:])
