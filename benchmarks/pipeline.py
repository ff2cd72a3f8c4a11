"""The pipeline whose reward saw 1,400 labelled scenes, over seeds, beside the supervised baseline and constant answers.

    python benchmarks/pipeline.py --seeds 0 1 2 --json benchmarks/pipeline.json

Each seed is one ``lvad pipeline --config configs/pipeline_tuned_reward.yaml --seed S --name seed-S``, in
logs/pipeline/seed-S of the present folder; a second call goes on where the first stopped.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from markdown_tables import markdown, mean
from provenance import provenance

SCORES = (
    "action_macro_f1", "action_f1_all", "action_exact_match", "action_f1/forward", "action_f1/stop", "action_f1/left",
    "action_f1/right", "action_auroc", "reason_macro_f1", "reason_f1_all", "reason_auroc", "parse_failure",
)  # fmt: skip


def run_seed(seed: int) -> dict:
    name = f"seed-{seed}"
    config = ["--config", "configs/pipeline_tuned_reward.yaml"]
    command = [sys.executable, "-m", "lvad.cli", "pipeline", *config, "--seed", str(seed), "--name", name]
    subprocess.run(command, check=True, stdout=sys.stderr)
    folder = Path("logs/pipeline") / name
    run = {part: json.loads((folder / f"{part}.json").read_text()) for part in ("comparison", "pipeline")}
    run["comparison"]["scores"] = [row for row in run["comparison"]["scores"] if row["score"] in SCORES]
    return run


def value(run: dict, kind: str, name: str, score: str) -> dict:
    rows = run["comparison"]["scores"]
    key = "minus" if kind == "difference" else "name"
    return next(row for row in rows if (row["kind"], row[key], row["score"]) == (kind, name, score))


def percent(values: list[float]) -> str:
    return f"{100 * statistics.mean(values):.1f} ({100 * (max(values) - min(values)):.1f})"


def scores_table(runs: list[dict[str, Any]]) -> str:
    """Both arms and the constant answers."""
    names = dict.fromkeys((row["kind"], row["name"]) for row in runs[0]["comparison"]["scores"])
    systems = [system for system in names if system[0] != "difference"]
    rows = []
    for score in SCORES:
        cells = []
        for kind, name in systems:
            known = [row["mean"] for run in runs for row in run["comparison"]["scores"]
                     if (row["kind"], row["name"], row["score"]) == (kind, name, score)]  # fmt: skip
            floor = mean([100 * share for share in known], 1) if known else "-"
            cells.append(percent(known) if kind == "arm" else floor)
        rows.append([f"`{score}`", *cells])
    num_scenes = runs[0]["comparison"]["num_scenes"]
    title = f"{num_scenes} test scenes, %: mean of {len(runs)} seeds (max - min)"
    return markdown((title, *(name for _, name in systems)), rows)


def differences_table(runs: list[dict[str, Any]], other: str) -> str:
    """The pipeline minus another system, seed by seed."""
    rows = []
    for score in ("action_macro_f1", "action_exact_match", "reason_macro_f1", "reason_f1_all"):
        found = [value(run, "difference", other, score) for run in runs]
        cells = [f"{100 * r['mean']:+.1f} ({100 * r['low']:+.1f} to {100 * r['high']:+.1f})" for r in found]
        rows.append([f"`{score}`", *cells])
    title = f"pipeline minus {other}, points (95 % interval, paired over scenes)"
    return markdown((title, *(f"seed {run['seed']}" for run in runs)), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    origin = provenance()
    runs = [{"seed": seed, **origin, **run_seed(seed)} for seed in args.seeds]
    print(scores_table(runs))
    print(differences_table(runs, "sft baseline"))
    if args.json:
        args.json.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
