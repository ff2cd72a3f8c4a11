"""Joins the records of a study whose parts were run in several folders.

Runs are deterministic: a run that two parts hold must have the same scores in both. Means, differences over seeds and
labels saved are computed anew from all runs. Intervals over scenes need the answers themselves and are taken from the
part that held both arms.
"""

import math
from collections.abc import Iterator
from typing import Any

from lvad.metrics.intervals import Interval
from lvad.metrics.seeds import mean_interval
from lvad.report.study_findings import Findings, Mean, savings_of

Record = dict[str, Any]
Key = tuple[str, int, int]
"""Arm, budget, seed."""

SCORES = {"action_macro_f1": "action", "reason_macro_f1": "reason"}
"""What is published of a run, with its title."""
TOLERANCE = 1e-6


def joined(record: Record, part: Record) -> Record:
    """One record of both.

    Args:
        record: what was published before.
        part: of further runs of the same study.

    Raises:
        ValueError: if a run that both hold has other scores.
    """
    runs = {_key(run): run for run in part["runs"]} | {_key(run): run for run in record["runs"]}
    for run in part["runs"]:
        _check_equal(runs[_key(run)], run)
    rows = list(runs.values())
    findings = []
    for found in record["findings"]:
        further = [other for other in part["findings"] if other["source"] == found["source"]]
        references = list(dict.fromkeys(name for one in (found, *further) for name in one["references"]))
        means = list(_means(rows, found["source"]))
        known = [row for one in (*further, found) for row in one["differences"]]
        findings.append(
            found
            | {
                "references": references,
                "means": [_plain(mean) for mean in means],
                "differences": list(_differences(rows, found["source"], references, known)),
                "savings": [_plain(saving) for saving in savings_of(means, references)],
            }
        )
    return record | {"runs": rows, "findings": findings}


def findings_of(found: Record) -> Findings:
    """What the figure draws of a record's findings: means with their intervals, and floors."""
    means = [
        Mean(**{**mean, "scores": {name: _read_interval(value) for name, value in mean["scores"].items()}})
        for mean in found["means"]
    ]
    return Findings(**{**found, "means": means, "differences": [], "savings": []})


def _read_interval(value: Record) -> Interval:
    return Interval(**{name: math.nan if number is None else number for name, number in value.items()})


def _key(run: Record) -> Key:
    return run["arm"], run["budget"], run["seed"]


def _check_equal(run: Record, other: Record) -> None:
    for source, scores in other["scores"].items():
        for name in SCORES:
            before = run["scores"].get(source, scores)[name]
            if abs(before - scores[name]) > TOLERANCE:
                raise ValueError(
                    f"{_key(run)}: {name} of {source} is {before} in one part and {scores[name]} in the other"
                )


def _cells(runs: list[Record], source: str) -> dict[tuple[str, int], list[Record]]:
    cells: dict[tuple[str, int], list[Record]] = {}
    for run in sorted(runs, key=_key):
        if source in run["scores"]:
            cells.setdefault((run["arm"], run["budget"]), []).append(run)
    return cells


def _means(runs: list[Record], source: str) -> Iterator[Mean]:
    for (arm, budget), group in _cells(runs, source).items():
        scores = {name: mean_interval([run["scores"][source][name] for run in group]) for name in SCORES}
        yield Mean(arm, budget, sorted({run["labels"] for run in group}), [run["seed"] for run in group], scores)


def _differences(runs: list[Record], source: str, references: list[str], known: list[Record]) -> Iterator[Record]:
    cells = _cells(runs, source)
    for (arm, budget), group in cells.items():
        for other in references:
            pairs = [
                (one, two) for one in group for two in cells.get((other, budget), []) if one["seed"] == two["seed"]
            ]
            if other != arm and pairs:
                seeds = [one["seed"] for one, _ in pairs]
                yield {
                    "arm": arm,
                    "minus": other,
                    "budget": budget,
                    "seeds": seeds,
                    "has_equal_labels": all(one["labels"] == two["labels"] for one, two in pairs),
                    "over_seeds": {
                        name: _interval(
                            mean_interval(
                                [one["scores"][source][name] - two["scores"][source][name] for one, two in pairs]
                            )
                        )
                        for name in SCORES
                    },
                    "over_scenes": _over_scenes(known, (arm, other, budget), seeds),
                }


def _over_scenes(known: list[Record], names: tuple[str, str, int], seeds: list[int]) -> Record | None:
    """Of the part that has this difference with these seeds."""
    for row in known:
        if (row["arm"], row["minus"], row["budget"]) == names and sorted(row["seeds"]) == sorted(seeds):
            return row["over_scenes"]
    return None


def _interval(interval: Interval) -> Record:
    return {name: None if math.isnan(value) else value for name, value in interval._asdict().items()}


def _plain(row: Any) -> Any:
    if isinstance(row, Interval):
        return _interval(row)
    if hasattr(row, "_asdict"):
        return {name: _plain(value) for name, value in row._asdict().items()}
    return {name: _plain(value) for name, value in row.items()} if isinstance(row, dict) else row
