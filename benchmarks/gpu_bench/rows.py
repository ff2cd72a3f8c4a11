"""What a section finds: rows of figures, each held against its bars where the device has some."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of a section."""

    name: str
    figures: dict[str, float | str] = field(default_factory=dict)
    passed: bool | None = None
    """None where nothing was to be passed."""
    note: str = ""
    """Why it failed or was left out."""

    @classmethod
    def judged(
        cls,
        name: str,
        figures: dict[str, float | str],
        at_most: Mapping[str, float] | None = None,
        at_least: Mapping[str, float] | None = None,
    ) -> "Row":
        """A row that passes where its figures keep to the bars; without bars nothing is to be passed."""
        missed = [f"{n} > {bar:g}" for n, bar in (at_most or {}).items() if not float(figures[n]) <= bar]
        missed += [f"{n} < {bar:g}" for n, bar in (at_least or {}).items() if not float(figures[n]) >= bar]
        has_bars = bool(at_most or at_least)
        return cls(name, figures, not missed if has_bars else None, ", ".join(missed))


Rows = Iterator[Row]


def append(file: Path, row: Row) -> None:
    """Write a row at once: what comes after it may hang."""
    with file.open("a") as lines:
        lines.write(json.dumps(asdict(row)) + "\n")


def read(file: Path) -> list[dict[str, Any]]:
    """The whole rows of a file; a line that was broken off is left out."""
    if not file.exists():
        return []
    lines = file.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
