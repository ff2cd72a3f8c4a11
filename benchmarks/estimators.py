"""Every estimator on the main job at equal rollouts, and what happens without controls: reward, facts, time.

    python benchmarks/estimators.py --seeds 0 1 2 --json benchmarks/estimators.json
    python benchmarks/estimators.py --only collapse defaults --at-once 1
    python benchmarks/estimators.py --show benchmarks/estimators.json

Each run is ``lvad fit`` with ``configs/rloo.yaml`` and the options of its row, then ``lvad test``; the rows differ in
these options alone. ``--at-once 2`` runs two processes of one thread each: faster in all, and the times are no longer
those of a run alone.
"""

import argparse
import json
import os
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from main_job import run_seed

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
    "RLOO, 2 updates a rollout": ["--model.init_args.controls.updates", "2"],
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


def table(runs: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = [
        "| estimator | " + " | ".join(f"`{column}`" for column in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    starts = [metrics for seeds in runs.values() for metrics in seeds.values()]
    if starts:
        cells = [f"{starts[0][f'{column}_start']:.3f}" if f"{column}_start" in starts[0] else "" for column in COLUMNS]
        lines.append(f"| the start | {' | '.join(cells)} |")
    for name, seeds in runs.items():
        cells = []
        for column in COLUMNS:
            values = [metrics[column] for metrics in seeds.values() if column in metrics]
            digits = 0 if column.startswith("time") else 1 if column.endswith("length") else 3
            spread = max(values) - min(values)
            cells.append(f"{statistics.mean(values):.{digits}f} ({spread:.{digits}f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(ROWS), help="rows by the beginning of their names")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--json", type=Path, help="runs are added to this file")
    parser.add_argument("--show", type=Path, help="measure nothing: the table of such a file")
    args = parser.parse_args()
    if args.show:
        print(table(json.loads(args.show.read_text())))
        return
    if args.at_once > 1:
        os.environ["OMP_NUM_THREADS"] = "1"
    names = [name for name in ROWS if any(name.lower().startswith(only.lower()) for only in args.only)]
    runs = json.loads(args.json.read_text()) if args.json and args.json.is_file() else {}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.at_once) as pool:
        jobs = {(name, seed): pool.submit(measure, name, seed, Path(folder)) for seed in args.seeds for name in names}
        for (name, seed), job in jobs.items():
            runs.setdefault(name, {})[str(seed)] = job.result()
            if args.json:
                args.json.write_text(json.dumps(runs, indent=2) + "\n")
    print(table({name: runs[name] for name in ROWS if name in runs}))


if __name__ == "__main__":
    main()
