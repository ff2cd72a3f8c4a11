"""The paper's first experiment (Appendix A) over seeds: A2C beside the supervised model that it starts from.

    python benchmarks/toy.py --seeds 0 1 2 --json benchmarks/toy.json
    python benchmarks/toy.py --show benchmarks/toy.json

The CLIP-score is the mean cosine of frames and justification; an answer without one counts -1
(``lvad.rewards.OnReason``).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from markdown_tables import markdown, mean, spread
from provenance import provenance

DRAW = ["data", "draw", "data/toy", "--num_train", "8000", "--num_val", "0", "--num_test", "0", "--seed", "7"]
ROWS = {
    "CLIP-score": ("test/clip_score", "test/reward_r1"),
    "action macro-F1": ("test/action_macro_f1", "test/action_macro_f1"),
    "action F1_all": ("test/action_f1_all", "test/action_f1_all"),
    "reason macro-F1": ("test/reason_macro_f1", "test/reason_macro_f1"),
    "reason F1_all": ("test/reason_f1_all", "test/reason_f1_all"),
    "answers that cannot be read": ("test/parse_failure", "test/parse_failure"),
}


def lvad(*args: str, folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "lvad.cli", *args], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def run_seed(seed: int, folder: Path, extra: list[str]) -> dict[str, dict[str, float]]:
    found = {}
    for name in ("toy_sft", "toy_a2c"):
        # The data's seed too: it decides which scenes are labelled, and which are tested.
        options = ["--seed_everything", str(seed), "--data.seed", str(seed), "--trainer.enable_progress_bar", "false"]
        model = ["--model.init_args.policy.init_args.model", f"logs/toy_sft/version_{seed}/model"]
        options += ["--trainer.logger.init_args.version", str(seed), *([*model, *extra] if name == "toy_a2c" else [])]
        lvad("fit", "--config", f"configs/{name}.yaml", *options, folder=folder)
        lvad("test", folder=folder)
        found[name] = json.loads((folder / f"logs/{name}/version_{seed}/metrics.json").read_text())
    return found


def table(runs: list[dict[str, Any]]) -> str:
    rows = []
    for title, names in ROWS.items():
        columns = [
            [run["metrics"][part][name] for run in runs]
            for part, name in zip(("toy_sft", "toy_a2c"), names, strict=True)
        ]
        steps = ", ".join(f"{after - before:+.3f}" for before, after in zip(*columns, strict=True))
        rows.append([title, *(f"{mean(values)} ({spread(values)})" for values in columns), steps])
    return markdown(("test scenes", "supervised", "A2C", "difference by seed"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--show", type=Path, help="measure nothing: the table of such a file")
    parser.add_argument("extra", nargs="*", help="options of the A2C part, after --")
    args = parser.parse_args()
    if args.show:
        print(table(json.loads(args.show.read_text())))
        return
    origin = provenance()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lvad(*DRAW, folder=folder)
        runs = [{"seed": seed, **origin, "metrics": run_seed(seed, folder, args.extra)} for seed in args.seeds]
    if args.json:
        args.json.write_text(json.dumps(runs, indent=1) + "\n")
    print(table(runs))


if __name__ == "__main__":
    main()
