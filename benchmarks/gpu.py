"""Everything that lvad does on a GPU, section by section: does it run, is it right, what does it cost.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/gpu.py --json benchmarks/gpu.json          # all of it, within 9 minutes
    python benchmarks/gpu.py parity tokens --json gpu.json       # some; sections of the same card and versions are kept
    python benchmarks/gpu.py --list

Each section runs in a process of its own and within a limit, the essential ones first and within 5 minutes. Rows are
kept as they come. Without a GPU the sections run at tiny sizes, as a test of themselves; such figures say nothing.
Exit code 0: all sections came to their end, and every row that has a bar keeps to it.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as lvad's own command sets them; too late once torch is imported
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

from gpu_bench.catalogue import NO_CARD, SECTIONS, limit_s
from gpu_bench.isolated import Isolation, Outcome
from gpu_bench.tables import line, table
from provenance import command, commit


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="all where none is named")
    parser.add_argument("--json", type=Path, help="the record")
    parser.add_argument("--logs", type=Path, help="folder for what the sections said")
    parser.add_argument("--commit", default=commit(), help="where the folder is no checkout")
    parser.add_argument("--list", action="store_true", help="name the sections")
    args = parser.parse_args()
    if unknown := [name for name in args.sections if name not in SECTIONS]:
        parser.error(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    return args


def find_machine(scratch: Path) -> tuple[Isolation, Outcome]:
    """Processes that can use the GPU, and what the first of them said of it."""
    found = None
    for starts in ("forkserver", "spawn"):
        place = scratch / starts
        place.mkdir()
        isolation = Isolation(place, starts)
        found = isolation.run("machine", SECTIONS["machine"], SECTIONS["machine"].limit_s)
        if found.ended == "done":
            return isolation, found
        print(f"{starts}: {found.ended}", flush=True)
    raise SystemExit(f"no section can run: {found.ended if found else ''}")


def earlier(file: Path | None, about: dict[str, Any]) -> dict[str, Any]:
    """Sections of a record that is of the same card and versions; each names its commit."""
    if file is None or not file.exists():
        return {}
    record = json.loads(file.read_text())
    return record["sections"] if record.get("machine") == about["machine"] else {}


def write(file: Path, record: dict[str, Any]) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(file)


def run(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The record, written anew as each section ends."""
    start_s = time.perf_counter()
    isolation, found = find_machine(scratch)
    machine = found.rows[0]["figures"]
    record: dict[str, Any] = {"machine": machine}
    record["sections"] = earlier(args.json, record)
    print(f"{machine['card']}, torch {machine['torch']}, commit {args.commit} ({found.seconds:.0f} s)", flush=True)
    slack = 4 if machine["card"] == NO_CARD else 1  # a shared CPU's time is nobody's promise
    for name in dict.fromkeys(args.sections or SECTIONS):
        if name == "machine":
            continue
        entry = SECTIONS[name]
        left_s = limit_s(name, time.perf_counter() - start_s, slack)
        outcome = isolation.run(name, entry, left_s) if left_s >= 1 else Outcome(name, 0.0, "no time was left", [])
        origin = {"is_good": outcome.is_good, "commit": args.commit, "command": command()}
        record["sections"][name] = asdict(outcome) | origin
        print(line(record["sections"][name]), flush=True)
        if args.json:
            write(args.json, record)
    return record


def main() -> int:
    args = parse()
    if args.list:
        print("\n".join(f"{name}{' (essential)' * entry.is_essential}" for name, entry in SECTIONS.items()))
        return 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        record = run(args, Path(folder))
        if args.logs:
            args.logs.mkdir(parents=True, exist_ok=True)
            for log in Path(folder).glob("*/*.log"):
                shutil.copy(log, args.logs)
    print(f"\n{table(record['sections'])}\n\n{json.dumps(record)}")
    return 0 if all(section["is_good"] for section in record["sections"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
