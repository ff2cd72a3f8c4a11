"""The main job over several seeds: what it gains, what it costs, with its spread.

    python benchmarks/main_job.py --seeds 0 1 2 --json benchmarks/main_job.json
    python benchmarks/main_job.py --seeds 0 1 2 -- --model.init_args.kl null

What follows ``--`` is given to ``lvad fit``. Each seed is a process of its own: ``lvad fit``, then ``lvad test``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from markdown_tables import by_seed
from provenance import provenance

ROWS = (
    "val/reward_start",
    "val/reward",
    "val/fact_precision_start",
    "val/fact_precision",
    "val/fact_recall_start",
    "val/fact_recall",
    "val/distinct_start",
    "val/distinct",
    "test/reward",
    "test/fact_precision",
    "test/fact_recall",
    "time/fit_s",
    "memory/peak_mib",
)


def run_seed(seed: int, config: str, extra: list[str], folder: Path) -> dict[str, float]:
    lvad = [sys.executable, "-m", "lvad.cli"]
    fit = [*lvad, "fit", "--config", config, "--seed_everything", str(seed), "--data.seed", str(seed), *extra]
    subprocess.run([*fit, "--trainer.enable_progress_bar", "false"], cwd=folder, check=True, stdout=sys.stderr)
    subprocess.run([*lvad, "test"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    newest = max(folder.glob("logs/*/version_*/metrics.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--config", default="configs/rloo.yaml")
    parser.add_argument("--json", type=Path)
    parser.add_argument("extra", nargs="*", help="options of lvad fit, after --")
    args = parser.parse_args()
    origin = provenance()
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            {"seed": seed, **origin, "metrics": run_seed(seed, args.config, args.extra, Path(folder))}
            for seed in args.seeds
        ]
    print(by_seed(runs, ROWS), end="")
    if args.json:
        args.json.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
