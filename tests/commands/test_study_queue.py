"""The queue of a study: what waits for what, what fails with what, and how processes end."""

import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from lvad.commands.study_plan import Job
from lvad.commands.study_queue import Processes, Slot, run_queue
from lvad.errors import DataError


def jobs(**inputs):
    """Jobs by name, each behind those that it names."""
    return {
        Path(name): Job(Path(name), name, "c.yaml", (), tuple(Path(part) for part in parts), False, False)
        for name, parts in inputs.items()
    }


class Notes:
    def __init__(self):
        self.rows = []

    def started(self, job):
        self.rows.append(f"+{job.name}")

    def ended(self, job, problem):
        self.rows.append(f"{'!' if problem else '-'}{job.name}")


def run(given, work, num_places=1, end=lambda: None):
    notes = Notes()
    return run_queue(given, [Slot(1, None)] * num_places, work, notes, end), notes.rows


def test_one_at_a_time_they_run_in_order():
    failed, rows = run(jobs(a="", b="a", c="", d="bc"), lambda job, place: None)
    assert failed == {}
    assert rows == ["+a", "-a", "+b", "-b", "+c", "-c", "+d", "-d"]


def test_what_is_built_on_a_failure_does_not_run_and_others_do():
    def work(job, place):
        if job.name == "b":
            raise DataError("broke")

    failed, rows = run(jobs(a="", b="", c="b", d="c", e="a"), work)
    assert {str(name): problem for name, problem in failed.items()} == {
        "b": "broke", "c": "not run: b failed", "d": "not run: c failed",
    }  # fmt: skip
    assert [row for row in rows if row[0] == "+"] == ["+a", "+b", "+e"]
    assert {row for row in rows if row[0] == "!"} == {"!b", "!c", "!d"}


def test_as_many_run_at_a_time_as_there_are_places():
    at_work, most, lock, both = 0, 0, threading.Lock(), threading.Barrier(2, timeout=20)

    def work(job, place):
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        both.wait()  # ends only if two are at work together
        with lock:
            at_work -= 1

    failed, _ = run(jobs(a="", b="", c="", d=""), work, num_places=2)
    assert (failed, most) == ({}, 2)


def test_each_has_a_place_of_its_own():
    used, both = [], threading.Barrier(2, timeout=20)
    places = [Slot(2, 0), Slot(2, 1)]

    def work(job, place):
        both.wait()
        used.append(place)

    run_queue(jobs(a="", b=""), places, work, Notes(), lambda: None)
    assert sorted(used) == places
    assert places[1].environment == {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "1"}
    assert Slot(3, None).environment == {"OMP_NUM_THREADS": "3"}


def test_a_mistake_of_ours_is_no_failed_cell():
    ended = []
    with pytest.raises(ZeroDivisionError):
        run(jobs(a=""), lambda job, place: 1 // 0, end=lambda: ended.append(True))
    assert ended == [True]


SLEEPS = "import time; print('begun', flush=True); time.sleep(60)"


def test_all_processes_are_ended_and_no_more_begin(tmp_path):
    processes, codes = Processes(), []
    log = tmp_path / "a.log"

    def start():
        codes.append(processes.run([sys.executable, "-c", SLEEPS], {}, log))

    thread = threading.Thread(target=start)
    thread.start()
    deadline_s = time.monotonic() + 30
    while not (log.is_file() and "begun" in log.read_text()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    processes.terminate()
    thread.join(timeout=30)
    start()
    assert codes == [-signal.SIGTERM] * 2
    assert log.read_text() == "begun\n"


def test_a_process_has_its_environment_and_its_log(tmp_path):
    log = tmp_path / "a.log"
    command = [sys.executable, "-c", "import os, sys; print(os.environ['OMP_NUM_THREADS']); sys.exit('gone')"]
    assert Processes().run(command, {"OMP_NUM_THREADS": "7"}, log) == 1
    assert log.read_text() == "7\ngone\n"
