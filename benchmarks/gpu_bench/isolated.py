"""Each section in a process of its own, with a limit: a hang or a crash of one loses no other.

The processes are forked from a server that has imported the libraries (``preload``) and touched no GPU, so that imports
are paid once. Where an import touched it all the same, it cannot be used after a fork: then they import by themselves.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_bench.catalogue import Entry, load
from gpu_bench.rows import append, read


@dataclass
class Outcome:
    """Of one section."""

    name: str
    seconds: float
    ended: str
    """``done``, or why it did not come to its end."""
    rows: list[dict[str, Any]]

    @property
    def is_good(self) -> bool:
        return self.ended == "done" and all(row["passed"] is not False for row in self.rows)


class Isolation:
    """Runs sections.

    Args:
        scratch: shared by all sections.
        starts: ``forkserver``, or ``spawn`` for processes that import by themselves, as multiprocessing names them.
    """

    def __init__(self, scratch: Path, starts: str = "forkserver") -> None:
        self._scratch = scratch
        # Asked of the driver's library and not of the driver, the number of GPUs leaves a process fit to be forked.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
        own = str(Path(__file__).parents[1])
        os.environ["PYTHONPATH"] = os.pathsep.join([own, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        self._starts = starts
        multiprocessing.get_context("forkserver").set_forkserver_preload(["gpu_bench.preload"])

    def run(self, name: str, entry: Entry, limit_s: float) -> Outcome:
        """One section, stopped with all that it started after so many seconds."""
        rows, log = (self._scratch / f"{name}.{kind}" for kind in ("rows", "log"))
        start_s = time.perf_counter()
        context: Any = multiprocessing.get_context("spawn" if entry.imports_itself else self._starts)
        process = context.Process(target=_child, args=(name, entry.function, self._scratch, rows, log))
        process.start()
        process.join(limit_s)
        ended = "done"
        if process.exitcode is None:
            ended = f"stopped after {limit_s:.0f} s"
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join()
        elif process.exitcode:
            ended = f"exit code {process.exitcode}: {last_line(log)}"
        return Outcome(name, time.perf_counter() - start_s, ended, read(rows))


def _child(name: str, function: str, scratch: Path, rows: Path, log: Path) -> None:
    os.setsid()  # a group of its own, to be stopped with what it starts
    folder = scratch / f"{name}.work"
    folder.mkdir()
    os.chdir(folder)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        from gpu_bench.bench import Bench  # with torch, which the parent does without

        for row in load(function)(Bench(scratch)):
            append(rows, row)
    except BaseException:
        sys.stdout.flush()
        os.write(2, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)  # threads that a library left behind are not waited for


def last_line(log: Path) -> str:
    """What was said last."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing was said"
