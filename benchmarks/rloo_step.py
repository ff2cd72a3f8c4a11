"""One RLOO step of lvad against one of TRL, on the same weights, frames, k, lengths, dtype and threads.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/rloo_step.py --geometry smolvlm-256m --tiles 1 --k 8 --steps 3 --json rows.json

The two alternate in one process, a step of TRL, then one of lvad. The first of each warms up; the times are medians of
the others. Every completion has the same number of tokens. Peak memory is that of the last step, above weights,
gradients and the states of AdamW.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rloo_bench.geometries import GEOMETRIES, LONGEST_EDGE_PX, make_folder
from rloo_bench.meters import matrix_product_rate
from rloo_bench.ours import Ours
from rloo_bench.setting import Cost, Setting, Side
from rloo_bench.tables import phases_table, plot, summary_table


def median_cost(steps: list[Cost]) -> Cost:
    """Of all steps but the first, which warms up; memory is that of the last."""
    costs = steps[1:]

    def of(values: list[dict[str, Any]]) -> dict[str, Any]:
        return {name: statistics.median(v.get(name, 0) for v in values) for name in values[0]}

    return Cost(
        statistics.median(c.wall_s for c in costs),
        statistics.median(c.cpu_s for c in costs),
        steps[-1].peak_mib,
        of([c.phases_s for c in costs]),
        of([c.counts for c in costs]),
    )


def row_of(name: str, ours: list[Cost], theirs: list[Cost] | None) -> dict[str, Any]:
    mine = median_cost(ours)
    row: dict[str, Any] = {"against": name, "steps": len(ours) - 1, "lvad": asdict(mine)}
    row["lvad"]["wall_s_each"] = [round(c.wall_s, 3) for c in ours]
    if theirs:
        other = median_cost(theirs)
        row["trl"] = asdict(other)
        row["trl"]["wall_s_each"] = [round(c.wall_s, 3) for c in theirs]
        row["speedup"] = other.wall_s / mine.wall_s
        row["speedup_cpu"] = other.cpu_s / mine.cpu_s
        row["memory_ratio"] = other.peak_mib / mine.peak_mib
    return row


def compare(side: Side, algorithm: str, steps: int, checkpointing: tuple[bool, bool]) -> dict[str, Any]:
    """A row: TRL's steps with lvad's between them, or lvad's alone."""
    ours = Ours(side, checkpointing[0])
    costs: list[Cost] = []
    theirs = None
    last = steps
    if algorithm == "none":
        costs = [ours.step(step, step == last) for step in range(last + 1)]
    else:
        from rloo_bench.theirs import train

        with tempfile.TemporaryDirectory() as folder:
            between = lambda step: costs.append(ours.step(step, step == last))  # noqa: E731
            theirs = train(side, algorithm, checkpointing[1], last + 1, between, folder)
    row = row_of(algorithm, costs, theirs)
    row["checkpointing"] = {"lvad": checkpointing[0], "trl": checkpointing[1]}
    row["operations"] = ours.gradient_operations()
    rate = matrix_product_rate(getattr(torch, side.setting.dtype), side.setting.device)
    phases = row["lvad"]["phases_s"]
    row["matrix_product_rate"] = rate
    row["gradient_pass_rate"] = row["operations"] / (phases["prefill"] + phases["forward"] + phases["backward"])
    row["gradient_pass_share"] = row["gradient_pass_rate"] / rate
    return row


def show(rows: list[dict[str, Any]], picture: Path | None) -> None:
    print(phases_table(rows), summary_table(rows), sep="\n\n")
    if picture:
        plot(rows, picture)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=[*GEOMETRIES, "embedded"], default="smolvlm-256m")
    parser.add_argument("--tiles", type=int, choices=sorted(LONGEST_EDGE_PX), default=1, help="per frame")
    parser.add_argument("--frames", type=int, default=1, help="per scene")
    parser.add_argument("--scenes", type=int, default=1, help="per step")
    parser.add_argument("--k", type=int, default=8, help="completions per scene")
    parser.add_argument("--tokens", type=int, default=40, help="of every completion")
    parser.add_argument("--steps", type=int, default=3, help="timed ones")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--freeze-vision", action="store_true")
    parser.add_argument("--against", nargs="+", choices=["rloo", "grpo", "none"], default=["rloo"])
    parser.add_argument(
        "--checkpointing", choices=["none", "trl", "both"], default="trl",
        help="gradient checkpointing; TRL's own default is on, lvad's off",
    )  # fmt: skip
    parser.add_argument("--seen-before", action="store_true", help="the same frames in every step, as in later epochs")
    parser.add_argument("--dtype", default="bfloat16" if torch.cuda.is_available() else "float32")
    parser.add_argument("--json", type=Path, help="rows are added to this list")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--show", type=Path, help="measure nothing: the tables, and the plot, of such a list")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.show:
        show(json.loads(args.show.read_text()), args.plot)
        return
    checkpointing = {"none": (False, False), "trl": (False, True), "both": (True, True)}[args.checkpointing]
    setting = Setting(
        args.geometry, args.tiles, args.frames, args.scenes, args.k, args.tokens, args.lora,
        args.freeze_vision or args.lora, args.dtype, args.seen_before,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        made = make_folder(args.geometry, args.tiles, Path(folder), getattr(torch, args.dtype))
        side = Side(made, setting)
        rows = [compare(side, algorithm, args.steps, checkpointing) for algorithm in args.against]
    for row in rows:
        row["setting"] = {**asdict(setting), "threads": torch.get_num_threads(), "torch": torch.__version__}
    show(rows, args.plot)
    if args.json:
        before = json.loads(args.json.read_text()) if args.json.exists() else []
        args.json.write_text(json.dumps(before + rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
