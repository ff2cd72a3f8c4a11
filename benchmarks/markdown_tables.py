"""What the benchmarks' tables are made of."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, each line with its end."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:], ""])


def mean(values: Sequence[float], digits: int = 3) -> str:
    """Of the seeds."""
    return f"{statistics.mean(values):.{digits}f}"


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Largest less smallest."""
    return f"{max(values) - min(values):.{digits}f}"


def by_seed(runs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """A table of metrics, a column for each run, with mean and spread; a metric that a run lacks is left out."""
    rows = []
    for name in names:
        values = [run["metrics"][name] for run in runs if name in run["metrics"]]
        if len(values) == len(runs):
            digits = 0 if name.startswith(("time", "memory")) else 3
            cells = [*(f"{value:.{digits}f}" for value in values), mean(values, digits), spread(values, digits)]
            rows.append([f"`{name}`", *cells])
    return markdown(("metric", *(f"seed {run['seed']}" for run in runs), "mean", "spread (max - min)"), rows)
