"""A queue of stages over cores or devices: a stage starts once its inputs are finished and a slot is free.

Where a stage fails, those that are built on it are not run; all others are.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple, Protocol

from lvad.commands.study_plan import Job
from lvad.errors import DataError


class Slot(NamedTuple):
    """A place to run a stage: a number of threads and, on a machine with GPUs, one GPU."""

    threads: int
    device: int | None

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of the processes in this slot."""
        given = {"OMP_NUM_THREADS": str(self.threads)}
        return given if self.device is None else {**given, "CUDA_VISIBLE_DEVICES": str(self.device)}


class QueueObserver(Protocol):
    """Receives the events of the queue."""

    def started(self, job: Job) -> None:
        """Handle the start of a stage."""
        ...

    def ended(self, job: Job, problem: str) -> None:
        """Handle the end of a stage; an empty problem means success."""
        ...


class Processes:
    """The processes of all running stages, which can be terminated together."""

    def __init__(self, pass_fds: Sequence[int] = ()) -> None:
        self.pass_fds = pass_fds
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_terminated = False

    def run(self, command: list[str], environment: Mapping[str, str], log: Path) -> int:
        """Run a command to its end, and append its output to a file.

        Returns:
            Its exit code; that of a process ended by SIGTERM once all were ended.
        """
        with log.open("ab") as output:
            with self._lock:
                if self._is_terminated:
                    return -signal.SIGTERM
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                    pass_fds=self.pass_fds,
                )
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)

    def terminate(self) -> None:
        """Send SIGTERM to each process, which writes its checkpoint and ends, and start no more."""
        with self._lock:
            self._is_terminated = True
            for process in self._running:
                process.send_signal(signal.SIGTERM)


def run_queue(
    jobs: Mapping[Path, Job],
    slots: Sequence[Slot],
    work: Callable[[Job, Slot], None],
    observer: QueueObserver,
    terminate: Callable[[], None],
) -> dict[Path, str]:
    """Run all jobs, as many at a time as there are slots.

    Args:
        jobs: by folder, each after those that it is built on.
        slots: at least one.
        work: does a job, in a thread of its own; a ``DataError`` is its failure.
        observer: is told of starts and ends.
        terminate: makes those that are at work end soon, where this thread is interrupted.

    Returns:
        The problem of each job that failed, or that was not run because an input failed.
    """
    waiting, done, failed = dict(jobs), set[Path](), dict[Path, str]()
    free = list(reversed(slots))
    running: dict[Future[None], tuple[Job, Slot]] = {}
    with ThreadPoolExecutor(len(slots)) as pool:
        try:
            while waiting or running:
                _fail_dependents(waiting, failed, observer)
                for job in [job for job in waiting.values() if done.issuperset(job.inputs)][: len(free)]:
                    slot = free.pop()
                    observer.started(waiting.pop(job.folder))
                    running[pool.submit(work, job, slot)] = (job, slot)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job, slot = running.pop(future)
                    free.append(slot)
                    _record_end(job, future, done, failed, observer)
        except BaseException:
            terminate()
            raise
    return failed


def _record_end(
    job: Job, future: Future[None], done: set[Path], failed: dict[Path, str], observer: QueueObserver
) -> None:
    if problem := _failure(future):
        failed[job.folder] = problem
    else:
        done.add(job.folder)
    observer.ended(job, problem)


def _fail_dependents(waiting: dict[Path, Job], failed: dict[Path, str], observer: QueueObserver) -> None:
    for folder, job in list(waiting.items()):
        if missing := [name for name in job.inputs if name in failed]:
            failed[folder] = f"not run: {missing[0]} failed"
            del waiting[folder]
            observer.ended(job, failed[folder])


def _failure(future: Future[None]) -> str:
    try:
        future.result()
    except (DataError, OSError) as error:
        return str(error)
    return ""
