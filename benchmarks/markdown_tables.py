"""What the benchmarks' tables are made of."""

import statistics
from collections.abc import Sequence


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
