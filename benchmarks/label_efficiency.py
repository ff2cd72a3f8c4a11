"""The published record of ``lvad study``, and its tables.

    lvad study --config configs/study/label_efficiency.yaml --parallel 2
    python benchmarks/label_efficiency.py logs/study/label_efficiency --json benchmarks/label_efficiency.json
    python benchmarks/label_efficiency.py elsewhere/label_efficiency --json benchmarks/label_efficiency.json --add
    python benchmarks/label_efficiency.py --json benchmarks/label_efficiency.json --figure docs/label_efficiency.png

The third form adds runs of another folder to the record, the last one draws what it holds. The record is the study's
``study.json`` with two scores a run. One row of ``runs`` is one run: its command, commit, seed, device and seconds.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markdown_tables import markdown
from study_records import SCORES, findings_of, joined

from lvad.report.study_figure import study_figure

ARMS = {
    "supervised": "supervised, from the frames",
    "mirrored": "supervised, scenes and their mirror images",
    "self_training": "supervised, self-training",
    "fixmatch": "FixMatch",
    "captioner": "two stages behind the captioner as it ships",
    "best_of_n": "two stages behind the best of 8 descriptions by the untuned CLIP",
    "reader_vote": "reader of the captioner's descriptions",
    "rloo_clip": "RLOO by the untuned CLIP, two stages",
    "rloo_clip_vote": "RLOO by the untuned CLIP, reader",
    "clip_tuned": "RLOO by a CLIP tuned on the n, reader",
    "reader": "RLOO by the reader, reader",
    "reader_clip": "RLOO by reader and CLIP, reader",
    "reversed": "few labels first, then RLOO on whole answers",
    "oracle": "two stages behind true descriptions (no method)",
}
"""As the documents call them, in their order."""
MAIN_ARMS = ("supervised", "reader_vote", "rloo_clip", "rloo_clip_vote", "reader_clip")
"""Those of the short table in README.md."""
WITH_RL = ("rloo_clip", "rloo_clip_vote", "clip_tuned", "reader", "reader_clip", "reversed")
TEST, HELD_OUT = "test", "extra_test"

Record = dict[str, Any]


def kept(study: Record) -> Record:
    """What is published of a study."""
    runs = [
        run | {"scores": {source: {name: own[name] for name in SCORES} for source, own in run["scores"].items()}}
        for run in study["runs"]
    ]
    return study | {"runs": runs}


def findings(record: Record, source: str) -> Record:
    return next(found for found in record["findings"] if found["source"] == source)


def interval(value: dict[str, Any], sign: str = "") -> str:
    """Percent with its 95 % interval."""
    mean, low, high = (value[name] for name in ("mean", "low", "high"))
    if low is None:
        return f"{100 * mean:{sign}.1f}"
    return f"{100 * mean:{sign}.1f} ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"


def means(record: Record, source: str = TEST, score: str = "action_macro_f1", arms: Sequence[str] = tuple(ARMS)) -> str:
    """Arms over budgets: mean over seeds and its interval."""
    found = findings(record, source)["means"]
    budgets = sorted({mean["budget"] for mean in found})
    rows = []
    for arm in arms:
        own = {mean["budget"]: mean for mean in found if mean["arm"] == arm}
        if own:
            cells = [_mean(own[n], score) if n in own else "" for n in budgets]
            seeds = sorted({len(mean["seeds"]) for mean in own.values()})
            rows.append([ARMS[arm], " to ".join(map(str, seeds)), *cells])
    title = f"{SCORES[score]} macro-F1, {findings(record, source)['num_scenes']} test scenes, %"
    return markdown((title, "seeds", *(f"{n} labels" for n in budgets)), rows)


def _mean(mean: Record, score: str) -> str:
    """Without an interval below three seeds: Student's t of two is wider than all scores there are."""
    value = mean["scores"][score]
    return interval(value) if len(mean["seeds"]) > 2 else f"{100 * value['mean']:.1f}"


def differences(record: Record, source: str = TEST) -> str:
    """Every arm with reinforcement learning against the supervised one and the best one without it, action macro-F1."""
    rows = []
    found = findings(record, source)
    shown = {budget: {"supervised", arm} for budget, arm in best_references(found).items()}
    for row in (row for row in found["differences"] if row["arm"] in WITH_RL and row["minus"] in shown[row["budget"]]):
        names = f"{ARMS[row['arm']]} - {ARMS[row['minus']]}"
        over = [_over(row[kind]) for kind in ("over_seeds", "over_scenes")]
        rows.append([names, str(row["budget"]), str(len(row["seeds"])), *over])
    rows.sort(key=lambda row: (int(row[1]), list(ARMS.values()).index(row[0].split(" - ")[0])))
    header = ("action macro-F1, points", "labels, both", "seeds", "over seeds", "over seeds and scenes")
    return markdown(header, rows)


def best_references(found: Record) -> dict[int, str]:
    """At each budget the arm without reinforcement learning that has the highest mean."""
    best: dict[int, Record] = {}
    for mean in (mean for mean in found["means"] if mean["arm"] in found["references"]):
        before = best.setdefault(mean["budget"], mean)
        best[mean["budget"]] = max(before, mean, key=lambda one: one["scores"]["action_macro_f1"]["mean"])
    return {budget: mean["arm"] for budget, mean in best.items()}


def _over(values: Record | None) -> str:
    return "" if values is None else interval(values["action_macro_f1"], "+")


def savings(record: Record, source: str = TEST) -> str:
    """How many labels the best arm without reinforcement learning needs for the same score."""
    rows = []
    for row in findings(record, source)["savings"]:
        if row["score"] == "action_macro_f1" and row["arm"] in WITH_RL:
            bound, count = row["needed"]["bound"], row["needed"]["count"]
            needed = f"{bound} {count:.0f}".strip()
            times = f"{bound} {count / row['budget']:.1f}".strip()
            rows.append([ARMS[row["arm"]], str(row["budget"]), needed, times])
    return markdown(("action macro-F1", "labels", "labels without RL for the same score", "as many times"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, nargs="?", help="folder of a study")
    parser.add_argument("--json", type=Path, required=True, help="the record")
    parser.add_argument("--add", action="store_true", help="add the runs to the record instead of replacing it")
    parser.add_argument("--figure", type=Path, help="a .png of the record to write")
    args = parser.parse_args()
    if args.study is not None:
        record = kept(json.loads((args.study / "study.json").read_text()))
        if args.add:
            record = joined(json.loads(args.json.read_text()), record)
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    record = json.loads(args.json.read_text())
    if args.figure is not None:
        study_figure("label efficiency", findings_of(findings(record, TEST)), ARMS).savefig(args.figure, dpi=120)
    print(means(record))


if __name__ == "__main__":
    main()
