"""The tables of the documents that show what was measured, built from its records.

    python benchmarks/tables.py            # writes them anew, between their markers
    python benchmarks/tables.py --check    # says which differ from the records, and exits with 1

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``. Time, memory and ratio of a row come from
one run, and a row names the commit whose engine was measured.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import estimators
import label_efficiency
import limits
import pipeline
import toy
from gpu_bench import tables as gpu_tables
from markdown_tables import markdown, mean, spread
from rloo_bench import step_tables

HERE = Path(__file__).resolve().parent
FILES = ("README.md", "docs/results.md", "docs/performance.md", "docs/label_efficiency.md")
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end of table -->\n)", re.S)


def record(name: str) -> Any:
    """What ``benchmarks/NAME.json`` holds."""
    return json.loads((HERE / f"{name}.json").read_text())


def records() -> str:
    """Where the records of docs/results.md come from: seeds, commit, device and command of their runs."""
    rows = []
    for name in ("main_job", "clip_reward", "estimators", "toy", "pipeline"):
        found = record(name)
        runs = found["runs"] if isinstance(found, dict) else found
        seeds = ", ".join(str(seed) for seed in sorted({run["seed"] for run in runs}))
        columns = [", ".join(dict.fromkeys(f"`{run[key]}`" for run in runs)) for key in ("commit", "command")]
        devices = ", ".join(dict.fromkeys(run["device"] for run in runs))
        rows.append((f"`{name}.json`", seeds, devices, *columns))
    return markdown(("record", "seeds", "device", "commit", "command"), rows)


def main_job() -> str:
    """The main job: start, end, spread."""
    runs = [run["metrics"] for run in record("main_job")]

    def column(name: str) -> list[float]:
        return [run[name] for run in runs]

    rows = []
    for title, name in (("reward", "reward"), ("fact precision", "fact_precision"), ("fact recall", "fact_recall")):
        rows.append((f"{title}, 128 validation scenes", mean(column(f"val/{name}_start")), column(f"val/{name}")))
    for title, name in (("reward", "reward"), ("fact precision", "fact_precision"), ("fact recall", "fact_recall")):
        rows.append((f"{title}, 300 test scenes", "", column(f"test/{name}")))
    cells = [[title, start, mean(values), spread(values)] for title, start, values in rows]
    seconds, peak = column("time/fit_s"), statistics.mean(column("memory/peak_mib")) / 1024
    cost = f"{min(seconds):.0f} to {max(seconds):.0f} s, {peak:.1f} GiB"
    cells.append(["time of the fit on 2 cores, peak memory", "", cost, ""])
    header = ("held-out scenes, greedy descriptions", "start", f"end (mean of {len(runs)} seeds)", "spread (max - min)")
    return markdown(header, cells)


def reward() -> str:
    """The reward's stage."""
    runs = [run["metrics"] for run in record("clip_reward")["runs"]]
    names = {
        "AUROC (`test/auroc`)": "test/auroc",
        "the same without looking (`auroc_floor`)": "test/auroc_floor",
        "AUROC per reason (`auroc_per_text`)": "test/auroc_per_text",
        "accuracy": "test/accuracy",
        "F1": "test/f1",
        "validation AUROC, untuned": "val/auroc_start",
        "validation AUROC, tuned": "val/auroc",
    }
    columns = {title: [run[name] for run in runs] for title, name in names.items()}
    header = (
        "400 test scenes, all 21 reasons (accuracy, F1: one right and one wrong reason per scene)",
        f"mean of {len(runs)} seeds",
        "spread (max - min)",
    )
    return markdown(header, [(title, mean(values), spread(values)) for title, values in columns.items()])


def similarity() -> str:
    """Table 1 of the paper, of the first seed."""
    table = next(iter(record("clip_reward")["tables"].values()))
    return "".join(line + "\n" for line in table.splitlines() if line.startswith("|"))


def audit() -> str:
    """The audit of the untuned and of the first tuned reward."""
    audits = record("clip_reward")["audits"]
    columns = {
        "untuned": "untuned, reason",
        "tuned": "seed 42, reason",
        "untuned, captions": "untuned, caption",
        "tuned, captions": "seed 42, caption",
    }

    def cell(found: dict[str, Any], probe: str) -> str:
        rate = f"{found['probes'][probe]['win_rate'][0]:.2f}"
        return rate if found["probes"][probe]["verdict"] == "pass" else f"**{rate} fail**"

    shown = [audits[name] for name in columns.values()]
    rows = [[probe, *(cell(found, probe) for found in shown)] for probe in shown[0]["probes"]]
    verdicts = [found["verdict"] if found["verdict"] == "pass" else f"**{found['verdict']}**" for found in shown]
    return markdown(("probe", *columns), [*rows, ["verdict", *verdicts]])


TABLES: dict[str, Callable[[], str]] = {
    "records": records,
    "main_job": main_job,
    "reward": reward,
    "similarity": similarity,
    "audit": audit,
    "pipeline": lambda: pipeline.scores_table(record("pipeline")),
    "pipeline_differences": lambda: pipeline.differences_table(record("pipeline"), "sft baseline"),
    "estimators": lambda: estimators.table(record("estimators")),
    "toy": lambda: toy.table(record("toy")),
    "labels": lambda: label_efficiency.means(record("label_efficiency"), arms=label_efficiency.MAIN_ARMS),
    "label_actions": lambda: label_efficiency.means(record("label_efficiency")),
    "label_reasons": lambda: label_efficiency.means(record("label_efficiency"), score="reason_macro_f1"),
    "label_differences": lambda: label_efficiency.differences(record("label_efficiency")),
    "label_savings": lambda: label_efficiency.savings(record("label_efficiency")),
    "label_held_out": lambda: label_efficiency.means(record("label_efficiency"), label_efficiency.HELD_OUT),
    "label_held_out_differences": lambda: label_efficiency.differences(
        record("label_efficiency"), label_efficiency.HELD_OUT
    ),
    "limits": lambda: limits.table(record("limits")),
    "gpu": lambda: gpu_tables.table(record("gpu")["sections"]) + "\n",
    "speed": lambda: step_tables.speed(record("rloo_step"), record("gpu")),
    "steps": lambda: step_tables.steps(record("rloo_step")),
    "alone": lambda: step_tables.alone(record("rloo_step")),
}


def rebuilt(text: str) -> str:
    """A document with its tables written anew.

    Raises:
        KeyError: for a marker that names no table.
    """
    return BLOCK.sub(lambda block: block[1] + TABLES[block[2]]() + block[4], text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    stale = []
    for name in FILES:
        path = HERE.parent / name
        before = path.read_text()
        after = rebuilt(before)
        if after != before:
            stale.append(name)
            if not args.check:
                path.write_text(after)
    print(f"{'differ' if args.check else 'written'}: {', '.join(stale) or 'none'}")
    return int(bool(stale) and args.check)


if __name__ == "__main__":
    sys.exit(main())
