"""A line of ``scenes.jsonl``: where it stands, and how a fault of it is said."""

import difflib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from lvad.errors import DataError


class Line(NamedTuple):
    """Where a scene stands, and what a file of its kind may say."""

    path: Path
    number: int
    split: str
    """Of every line of the file; empty where each names its own."""
    folder: Path
    """What the paths of frames and videos are relative to."""

    def error(self, problem: str, remedy: str = "correct the line") -> DataError:
        """The fault of this line."""
        return DataError.at(self.path, self.where, problem, remedy)

    def unknown(self, what: str, got: object, allowed: Iterable[str]) -> DataError:
        """The fault of a word that is none of those allowed, with the nearest of them."""
        known = list(allowed)
        close = difflib.get_close_matches(str(got), known, 1)
        remedy = f"write {close[0]!r}" if close else f"use one of {', '.join(known)}"
        return self.error(f"unknown {what} {got!r:.80}", remedy)

    @property
    def where(self) -> str:
        """For messages."""
        return f"line {self.number}"


def name_of(path: str) -> str:
    """The name that a file gives: its path without suffix, and without what leads out of a folder."""
    file = PurePosixPath(path)
    return "/".join([*(part for part in file.parent.parts if part not in ("..", file.anchor)), file.stem])
