"""Convert BDD-X, spans of BDD100K's videos with what the car does and why, to lines of JSON (``lvad.data.jsonl``).

The release is a table with a row per annotated video and up to 15 spans in it, and a list of the videos of each split.

Departures from the release:
    1. Action and justification make one sentence: "The car stops because the light is red."
    2. Its times are whole seconds: an end less than a second after the video's end is taken as the video's end.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from lvad.data.images import walk
from lvad.data.reading import SPLITS, DroppedRow, read_text
from lvad.data.video_clips import read_header
from lvad.data.videos import VIDEO_SUFFIXES
from lvad.errors import DataError

TABLE_SUFFIX: Final = ".csv"
VIDEO: Final = "Input.Video"
CELLS: Final = ("start", "end", "action", "justification")
NUM_SPANS: Final = 15
_ROUNDING_S: Final = 1.0


class ConvertedSpans(NamedTuple):
    """The lines of JSON, and the spans that were left out."""

    rows: list[dict[str, Any]]
    drops: list[DroppedRow]


class _Span(NamedTuple):
    """One annotated part of a video, as the table has it."""

    name: str
    """File name of the video, without folder and suffix."""
    cells: tuple[str, ...]
    """The texts of the span, in the order of ``CELLS``."""


def convert_bddx(table: Path, videos: Path, relative: Callable[[Path], str]) -> ConvertedSpans:
    """Convert the release's table to lines of JSON.

    Args:
        table: the CSV; ``train.txt``, ``val.txt`` and ``test.txt`` beside it are the splits, if there are any.
        videos: the folder of the videos, which is searched with its sub-folders.
        relative: the path that a line has for a video.

    Returns:
        A line for each span that can be used, and for each other span why it is left out.

    Raises:
        DataError: for a table of another kind, a video in two splits, a video that cannot be decoded, or where no span
            can be used.
    """
    below = walk(videos, VIDEO_SUFFIXES).items()
    found = {Path(name).stem: videos / folder / name for folder, names in below for name in names}
    splits = _splits(table.parent)
    rows: list[dict[str, Any]] = []
    drops: list[DroppedRow] = []
    counts: Counter[str] = Counter()
    for span in _spans(table):
        counts[span.name] += 1
        name, split = f"{span.name}/{counts[span.name]}", splits.get(span.name, "")
        times = _times(span, found, splits)
        if isinstance(times, str):
            drops.append(DroppedRow(name, split, times))
            continue
        row = {"id": name, "video": relative(found[span.name]), "start_s": times[0], "end_s": times[1]}
        rows.append(row | ({"split": split} if split else {}) | {"text": sentence(*span.cells[2:])})
    if not rows:
        whys = ", ".join(f"{count} {why}" for why, count in Counter(drop.why for drop in drops).items())
        problem = f"none of its spans can be used ({whys or 'it has none'})"
        raise DataError.at(table, "", problem, f"put the videos into {videos}, or name their folder with --images")
    return ConvertedSpans(rows, drops)


def sentence(action: str, justification: str) -> str:
    """Join an action and its justification, which begins with "because", into one sentence."""
    action, justification = (" ".join(text.split()).rstrip(" .,;") for text in (action, justification))
    if justification[1:2].islower():  # "Because", and no abbreviation
        justification = justification[0].lower() + justification[1:]
    return f"{action} {justification}."


def _times(span: _Span, found: Mapping[str, Path], splits: Mapping[str, str]) -> tuple[float, float] | str:
    """Return start and end in seconds, or why the span is left out."""
    if not all(span.cells):
        return "empty cell"
    if span.name not in found:
        return "video missing" if span.name else "no video named"
    if splits and span.name not in splits:
        return "in no list of a split"
    try:
        start_s, end_s = map(float, span.cells[:2])
    except ValueError:
        return "time is no number"
    if not 0 <= start_s <= end_s < math.inf:
        return "reversed or endless"
    length_s = read_header(found[span.name]).length_s
    if length_s is None:
        return start_s, end_s
    if start_s >= length_s or end_s >= length_s + _ROUNDING_S:
        return "outside the video"
    return start_s, max(start_s, min(end_s, math.floor(100 * length_s) / 100))


def _spans(table: Path) -> Iterator[_Span]:
    try:
        for row in _rows(table):
            name = Path((row.get(VIDEO) or "").strip().rpartition("/")[2]).stem
            for number in range(1, NUM_SPANS + 1):
                cells = tuple((row.get(f"Answer.{number}{cell}") or "").strip() for cell in CELLS)
                if any(cells):
                    yield _Span(name, cells)
    except csv.Error as error:
        raise DataError.at(table, "", f"cannot be read: {error}", "restore the file from its source") from error


def _rows(table: Path) -> Iterator[dict[str, str | None]]:
    rows = csv.DictReader(io.StringIO(read_text(table), newline=""))
    lacking = {VIDEO, *(f"Answer.1{cell}" for cell in CELLS)} - set(rows.fieldnames or ())
    if lacking:
        problem = f"has no column {', '.join(map(repr, sorted(lacking)))}"
        raise DataError.at(table, "", problem, "take BDD-X-Annotations_v1.csv of the release")
    return rows


def _splits(folder: Path) -> dict[str, str]:
    """Map videos to splits; empty where there are no lists. The lines of a list are ``<number>_<video>``."""
    found: dict[str, str] = {}
    for split in SPLITS:
        path = folder / f"{split}.txt"
        for line in read_text(path).split() if path.is_file() else []:
            name = Path(line.rpartition("_")[2]).stem
            if found.setdefault(name, split) != split:
                problem = f"video {name!r:.80} is in the list of {found[name]} too"
                raise DataError.at(path, "", problem, "restore the lists from their source")
    return found
