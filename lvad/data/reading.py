"""The parts that all readers share: the result of reading a source, and the checks of its files and rows.

A reader never stops at the first bad row. It appends to ``Reading.errors``; training raises the first of them
(``Reading.require``), ``lvad data check`` prints all.
"""

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, Self

from lvad.errors import DataError
from lvad.types import Scene

SPLITS: Final = ("train", "val", "test")
MAX_TEXT_BYTES: Final = 2**30
"""Larger files are refused; the labels of BDD-OIA take 10 MB."""


class DroppedRow(NamedTuple):
    """A row that was left out on purpose, and why."""

    id: str
    split: str
    why: str


@dataclass
class Reading:
    """The result of reading a source: its scenes, the rows that were dropped, errors and warnings."""

    format: str
    scenes: list[Scene] = field(default_factory=list)
    drops: list[DroppedRow] = field(default_factory=list)
    errors: list[DataError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    has_images: bool = True
    """False for label files without an image folder: the scenes then have no frames."""

    @property
    def dropped(self) -> dict[str, int]:
        """Number of dropped rows by reason."""
        return dict(Counter(drop.why for drop in self.drops))

    @contextmanager
    def collect_errors(self) -> Iterator[None]:
        """Turn a ``DataError`` of the block into one more entry of ``errors``."""
        try:
            yield
        except DataError as error:
            self.errors.append(error)

    def summary(
        self, root: Path, used: Mapping[str, list[Scene]], is_unlabelled: bool, notes: list[str], streams: list[str]
    ) -> str:
        """Describe what was read, used and left out, in one line per fact.

        Args:
            root: the path that was read.
            used: the scenes of each split.
            is_unlabelled: whether the labels of the training scenes are hidden.
            notes: further lines on the choice of scenes.
            streams: lines on streamed footage that replaces the training scenes.
        """
        first = f"{root} ({self.format}): {len(self.scenes)} scenes read"
        if used:
            first += "; " + ", ".join(f"{split} {len(scenes)}" for split, scenes in used.items())
            first += " (train labels hidden)" if is_unlabelled else ""
        dropped = [f"dropped: {count} {why}" for why, count in self.dropped.items()]
        return "\n".join([first, *notes, *dropped, *streams, *(f"note: {warning}" for warning in self.warnings)])

    def require(self) -> Self:
        """Return itself if every row became a scene or was dropped on purpose.

        Raises:
            DataError: the first error, and how many more there are.
        """
        if self.errors:
            more = f" ({len(self.errors) - 1} more; `lvad data check` lists all)" if len(self.errors) > 1 else ""
            raise DataError(f"{self.errors[0]}{more}")
        return self


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"duplicate id {twice!r}")
    return result


def load_json(text: str, path: Path, row: str = "") -> Any:
    """Parse JSON in which no object names a key twice (Python's own parser keeps the last in silence).

    Raises:
        DataError: for malformed JSON or a key given twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    # A deeply nested file ends in RecursionError, every other fault in ValueError.
    except (ValueError, RecursionError) as error:
        raise DataError.at(path, row, f"not usable JSON: {error}", "restore the file from its source") from error


def plain_file(path: Path) -> os.stat_result:
    """Return the status of a regular file.

    Raises:
        OSError: if it is missing or no regular file; reading a pipe or a device might never end.
        ValueError: if no file can have this name.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is no plain file")
    return status


def check_path(path: Path) -> None:
    """Refuse a path that no file can have or that cannot be reached; the file may be missing.

    Raises:
        DataError: naming the path.
    """
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise DataError.at(path, "", f"cannot be reached: {error}", "correct the path") from error


def check_exists(path: Path) -> None:
    """Refuse a path that cannot be reached or does not exist.

    Raises:
        DataError: naming the path.
    """
    check_path(path)
    if not path.exists():
        raise DataError.at(path, "", "does not exist", "correct the path")


def read_text(path: Path) -> str:
    """Read a text in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        DataError: if it is missing, unreadable, no plain file, larger than ``MAX_TEXT_BYTES`` or in no such encoding.
    """
    try:
        if (size := plain_file(path).st_size) > MAX_TEXT_BYTES:
            raise OSError(f"it holds {size:,} bytes, more than {MAX_TEXT_BYTES:,}")
        return path.read_text(encoding=encoding_of(path))
    # A name with a zero character is a ValueError, as is text that is not UTF-8.
    except (OSError, ValueError) as error:
        raise DataError.at(path, "", f"cannot be read: {error}", "restore the file from its source") from error


def encoding_of(path: Path) -> str:
    """Detect the Unicode encoding of a text by its byte order mark, or by zero bytes, as texts begin with ASCII.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return json.detect_encoding(file.read(4))


def read_json(path: Path, kind: type) -> Any:
    """Read a JSON file whose top level is a ``kind`` (dict or list).

    Raises:
        DataError: if it is missing, malformed, or its top level is something else.
    """
    content = load_json(read_text(path), path)
    if not isinstance(content, kind):
        got = type(content).__name__
        problem = f"top level is a {got}, expected a {kind.__name__}"
        raise DataError.at(path, "", problem, "check that this is the right file")
    return content


def is_text(value: object) -> bool:
    """Whether a value is a string that UTF-8 can encode; JSON can hold half a surrogate pair, which it cannot."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def read_flags(value: object, lengths: tuple[int, ...], what: str, path: Path, row: str) -> tuple[int, ...]:
    """Check a label vector and return it as a tuple of zeros and ones.

    Raises:
        DataError: if it is no list, has none of the ``lengths``, or holds anything but the integers 0 and 1.
    """
    allowed = " or ".join(map(str, lengths))
    if not isinstance(value, list) or len(value) not in lengths:
        got = f"{len(value)} entries" if isinstance(value, list) else type(value).__name__
        raise DataError.at(path, row, f"{what} must be a list of {allowed} entries, got {got}", "correct the row")
    if wrong := [entry for entry in value if type(entry) is not int or entry not in (0, 1)]:
        raise DataError.at(path, row, f"{what} must hold only 0 and 1, got {wrong[0]!r:.40}", "correct the row")
    return tuple(value)


def read_name(value: object, what: str, path: Path, row: str) -> str:
    """Check that a file name or id stays inside its folder, and return it.

    Raises:
        DataError: if it is no text, empty, unprintable, absolute, or climbs out of the folder (``../x``).
    """
    if not isinstance(value, str) or not value or not value.isprintable():
        raise DataError.at(path, row, f"{what} must be a printable name, got {value!r:.80}", "correct the row")
    parts = PurePosixPath(value)
    if parts.is_absolute() or ".." in parts.parts or "\\" in value or re.match(r"[A-Za-z]:", value):
        problem = f"{what} {value!r:.80} leads out of its folder"
        raise DataError.at(path, row, problem, "names must be relative, without '..' or backslashes")
    if str(parts) != value:
        raise DataError.at(path, row, f"{what} {value!r:.80} is not a plain path", f"write it as {str(parts)!r:.80}")
    return value
