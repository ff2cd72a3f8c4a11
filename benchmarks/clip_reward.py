"""The reward's tuning over several seeds, and the audit of every CLIP before and after.

    python benchmarks/clip_reward.py --seeds 42 43 44 --json benchmarks/clip_reward.json

What follows ``--`` is given to ``lvad fit``. Each seed is a process of its own: ``lvad fit``, ``lvad test``, then
``lvad audit`` of what it wrote, on reasons and on captions; the untuned CLIP is audited too.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from main_job import run_seed
from markdown_tables import by_seed
from provenance import provenance

ROWS = (
    "val/auroc_start", "val/auroc", "test/auroc", "test/auroc_floor", "test/auroc_per_text", "test/accuracy",
    "test/precision", "test/recall", "test/f1", "time/fit_s", "memory/peak_mib",
)  # fmt: skip
LVAD = [sys.executable, "-m", "lvad.cli"]


def newest(folder: Path) -> Path:
    return max(folder.glob("logs/clip_reward/version_*"), key=lambda path: path.stat().st_mtime)


def audit(reward: str, texts: str, folder: Path) -> dict:
    command = [*LVAD, "audit", "--reward", reward, "--texts", texts, "--json"]
    # Exit code 1 is the verdict of an untuned CLIP; an error leaves nothing that json could read.
    return json.loads(subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True).stdout)


def print_audits(audits: dict[str, dict]) -> None:
    print(f"\n| probe | {' | '.join(audits)} |\n{'|---' * (len(audits) + 1)}|")
    for probe in next(iter(audits.values()))["probes"]:
        cells = []
        for found in audits.values():
            one = found["probes"][probe]
            shown = one["verdict"] if one["win_rate"] is None else f"{one['win_rate'][0]:.2f} {one['verdict']}"
            cells.append(shown)
        print(f"| {probe} | {' | '.join(cells)} |")
    print(f"| verdict | {' | '.join(found['verdict'] for found in audits.values())} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="copy the first seed's run folder here")
    parser.add_argument("extra", nargs="*", help="options of lvad fit, after --")
    args = parser.parse_args()
    origin = provenance()
    runs, audits, tables = [], {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for texts in ("reason", "caption"):
            audits[f"untuned, {texts}"] = audit("embedded/clip", texts, folder)
        for seed in args.seeds:
            runs.append(
                {"seed": seed, **origin, "metrics": run_seed(seed, "configs/clip_reward.yaml", args.extra, folder)}
            )
            tables[seed] = (newest(folder) / "tables.md").read_text()
            model = str(newest(folder).relative_to(folder) / "model")
            for texts in ("reason", "caption"):
                audits[f"seed {seed}, {texts}"] = audit(model, texts, folder)
            if args.keep and seed == args.seeds[0]:
                shutil.copytree(newest(folder), args.keep)
    print(by_seed(runs, ROWS), end="")
    print_audits(audits)
    for seed, table in tables.items():
        print(f"\nseed {seed}: {table}")
    if args.json:
        args.json.write_text(json.dumps({"runs": runs, "audits": audits, "tables": tables}, indent=1) + "\n")


if __name__ == "__main__":
    main()
