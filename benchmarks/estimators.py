"""Every estimator on the main job at equal rollouts, and what happens without regularisation: reward, facts, time.

    python benchmarks/estimators.py --seeds 0 1 2 --json benchmarks/estimators.json
    python benchmarks/estimators.py --only collapse defaults --at-once 1
    python benchmarks/estimators.py --show benchmarks/estimators.json --plot docs/estimators.png

Each run is ``lvad fit`` with ``configs/rloo.yaml`` and the options of its row, then ``lvad test``; the rows differ in
these options alone. ``--at-once 2`` runs two processes of one thread each: faster in all, and the times are no longer
those of a run alone.
"""

import argparse
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from main_job import run_seed
from markdown_tables import markdown, mean, spread
from matplotlib.figure import Figure
from provenance import provenance

POLICY = "--model.init_args.estimator"
ROWS: dict[str, list[str]] = {
    "RLOO (defaults)": [],
    "REINFORCE": [POLICY, "Reinforce"],
    "REINFORCE, running mean": [POLICY, "Reinforce", f"{POLICY}.init_args.baseline", "running_mean"],
    "SCST": [POLICY, "SCST"],
    "A2C": [POLICY, "A2C"],
    "GRPO": [POLICY, "GRPO"],
    "Dr. GRPO": [POLICY, "GRPO", f"{POLICY}.init_args.scale_by_std", "false", f"{POLICY}.init_args.per_token", "false"],
    "best-of-n": [POLICY, "BestOfN"],
    "minimum risk": [POLICY, "MinimumRisk"],
    "RLOO, 2 updates a rollout": ["--model.init_args.regularisation.updates", "2"],
    "RLOO without KL": ["--model.init_args.kl", "null"],
    "RLOO without controls": [
        "--model.init_args.kl", "null", "--model.init_args.optimizer.init_args.lr", "0.003",
        "--trainer.gradient_clip_val", "null",
    ],
}  # fmt: skip
COLUMNS = ("val/reward", "val/fact_precision", "val/fact_recall", "val/length", "test/fact_precision", "time/fit_s")


def measure(name: str, seed: int, folder: Path) -> dict[str, float]:
    own = folder / f"{name.replace(' ', '_').replace('.', '').replace(',', '')}_{seed}"
    own.mkdir()
    return run_seed(seed, "configs/rloo.yaml", ROWS[name], own)


def by_estimator(runs: list[dict[str, Any]]) -> dict[str, list[dict[str, float]]]:
    """The metrics of all seeds, estimator by estimator in the order of ``ROWS``."""
    named = [(name, [run["metrics"] for run in runs if run["estimator"] == name]) for name in ROWS]
    return {name: metrics for name, metrics in named if metrics}


def table(runs: list[dict[str, Any]]) -> str:
    digits = {name: 0 if name.startswith("time") else 1 if name.endswith("length") else 3 for name in COLUMNS}
    rows = []
    for start in [run["metrics"] for run in runs[:1]]:
        cells = [f"{start[f'{name}_start']:.{n}f}" if f"{name}_start" in start else "" for name, n in digits.items()]
        rows.append(["the start", *cells])
    for name, seeds in by_estimator(runs).items():
        columns = [([metrics[column] for metrics in seeds if column in metrics], n) for column, n in digits.items()]
        rows.append([name, *(f"{mean(values, n)} ({spread(values, n)})" for values, n in columns)])
    return markdown(("estimator", *(f"`{column}`" for column in COLUMNS)), rows)


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """Reward against truth: where every seed of every row ended, and where all began."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    colours = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]
    start, groups = runs[0]["metrics"], by_estimator(runs)
    axes.axhline(start["val/fact_precision_start"], color="#999999", linestyle=":", linewidth=1)
    axes.plot(start["val/reward_start"], start["val/fact_precision_start"], "k*", markersize=14, label="the start")
    for (name, seeds), colour in zip(groups.items(), colours, strict=False):
        points = [(metrics["val/reward"], metrics["val/fact_precision"]) for metrics in seeds]
        marker = "X" if "without" in name else "o"
        axes.plot(*zip(*points, strict=True), marker, color=colour, markersize=8, linestyle="none", label=name)
    axes.set_xlabel("reward of held-out descriptions")
    axes.set_ylabel("share of their claims that are true")
    axes.set_title(f"After equal rollouts, {max(map(len, groups.values()))} seeds each")
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(ROWS), help="rows by the beginning of their names")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--json", type=Path, help="runs are added to this file")
    parser.add_argument("--show", type=Path, help="measure nothing: the table, and the plot, of such a file")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    if args.show:
        known = json.loads(args.show.read_text())
        print(table(known))
        if args.plot:
            plot(known, args.plot)
        return
    if args.at_once > 1:
        os.environ["OMP_NUM_THREADS"] = "1"
    names = [name for name in ROWS if any(name.lower().startswith(only.lower()) for only in args.only)]
    known = json.loads(args.json.read_text()) if args.json and args.json.is_file() else []
    runs = {(run["estimator"], run["seed"]): run for run in known}
    origin = provenance()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.at_once) as pool:
        jobs = {(name, seed): pool.submit(measure, name, seed, Path(folder)) for seed in args.seeds for name in names}
        for (name, seed), job in jobs.items():
            runs[name, seed] = {"estimator": name, "seed": seed, **origin, "metrics": job.result()}
            if args.json:
                args.json.write_text(json.dumps(list(runs.values()), indent=1) + "\n")
    print(table(list(runs.values())))


if __name__ == "__main__":
    main()
