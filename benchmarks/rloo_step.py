"""One RLOO step of lvad against one of TRL, on the same weights, frames, k, lengths, dtype and threads.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/rloo_step.py --geometry smolvlm-256m --tiles 1 --k 8 --steps 3 --json rows.json

The two alternate in one process, a step of TRL, then three of lvad. The first turn of each warms up; the times are
medians of the others. Every completion has the same number of tokens. Peak memory is that of one more step of each,
above weights, gradients and the states of AdamW; it is not timed, for it starts with all free memory given back.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from rloo_bench.geometries import GEOMETRIES, GRIDS, make_folder
from rloo_bench.meters import matrix_product_rate
from rloo_bench.ours import Ours
from rloo_bench.setting import Cost, Setting, Side
from rloo_bench.tables import phases_table, plot, summary_table

OURS_PER_TURN = 3
"""Steps of lvad after each of TRL, which are ten times as long: the median is of steps that follow one of their own."""


def median_cost(timed: list[Cost], peak_mib: float) -> Cost:
    def of(values: list[dict[str, Any]]) -> dict[str, Any]:
        return {name: statistics.median(v.get(name, 0) for v in values) for name in values[0]}

    return Cost(
        statistics.median(c.wall_s for c in timed),
        statistics.median(c.cpu_s for c in timed),
        peak_mib,
        of([c.phases_s for c in timed]),
        of([c.counts for c in timed]),
    )


def row_of(name: str, ours: list[Cost], peak_mib: float, theirs: list[Cost] | None) -> dict[str, Any]:
    mine = median_cost(ours, peak_mib)
    row: dict[str, Any] = {"against": name, "steps": len(ours), "lvad": asdict(mine)}
    row["lvad"]["wall_s_each"] = [round(c.wall_s, 3) for c in ours]
    if theirs:
        their_timed = theirs[1:-1]
        other = median_cost(their_timed, theirs[-1].peak_mib)
        row["steps"], row["trl"] = len(their_timed), asdict(other)
        row["trl"]["wall_s_each"] = [round(c.wall_s, 3) for c in their_timed]
        row["speedup"] = other.wall_s / mine.wall_s
        row["speedup_cpu"] = other.cpu_s / mine.cpu_s
        row["memory_ratio"] = other.peak_mib / mine.peak_mib
    return row


def compare(side: Side, algorithm: str, steps: int, checkpointing: tuple[bool, bool]) -> dict[str, Any]:
    """A row: TRL's steps with lvad's between them, or lvad's alone."""
    ours = Ours(side, checkpointing[0])
    turns: list[list[Cost]] = []
    theirs = None

    def turn(number: int) -> None:
        if number > steps:  # TRL's step for its memory
            return
        # New frames in every step, so that no cache of visual tokens answers.
        turns.append([ours.step(number + 1000 * i, with_memory=False) for i in range(OURS_PER_TURN)])

    if algorithm == "none":
        for number in range(steps + 1):
            turn(number)
    else:
        from rloo_bench.theirs import train

        with tempfile.TemporaryDirectory() as folder:
            theirs = train(side, algorithm, checkpointing[1], steps + 2, turn, folder)
    peak_mib = ours.step(steps + 1, with_memory=True).peak_mib
    timed = [cost for costs in turns[1:] for cost in costs]
    row = row_of(algorithm, timed, peak_mib, theirs)
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
    parser.add_argument("--tiles", type=int, choices=sorted(GRIDS), default=1, help="per frame")
    parser.add_argument("--frames", type=int, default=1, help="per scene")
    parser.add_argument("--scenes", type=int, default=1, help="per step")
    parser.add_argument("--k", type=int, default=8, help="completions per scene")
    parser.add_argument("--tokens", type=int, default=40, help="of every completion")
    parser.add_argument("--steps", type=int, default=3, help="timed ones of TRL")
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
        origin = provenance()
        made = make_folder(args.geometry, args.tiles, Path(folder), getattr(torch, args.dtype))
        side = Side(made, setting)
        rows = [compare(side, algorithm, args.steps, checkpointing) for algorithm in args.against]
    for row in rows:
        row.update(origin)
        row["setting"] = {**asdict(setting), "threads": torch.get_num_threads()}
    show(rows, args.plot)
    if args.json:
        before = json.loads(args.json.read_text()) if args.json.exists() else []
        args.json.write_text(json.dumps(before + rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
