"""Read the fields of one row of a ``.jsonl`` file: labels, texts, facts, and a span of a video in place of frames.

A span is ``{"video": "a.mp4", "start_s": 1.0, "end_s": 5.0}``.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from lvad.data.reading import is_text
from lvad.data.video_clips import clip_frames, read_header
from lvad.data.videos import VIDEO_SUFFIXES
from lvad.errors import DataError
from lvad.facts import ATTRIBUTES
from lvad.taxonomy import Taxonomy
from lvad.types import VideoFrame

SPAN_KEYS: Final = ("video", "start_s", "end_s")
_ROUNDING_S: Final = 0.05
"""An end at most this far after the video's end is taken as the video's end."""
_LONGEST_S: Final = 1e9


class Line(NamedTuple):
    """A line of a ``.jsonl`` file; it makes the errors that name it."""

    path: Path
    number: int
    split: str
    """The split of every line of the file; empty where each line names its own."""
    folder: Path
    """The folder that the paths of frames and videos are relative to."""

    def error(self, problem: str, remedy: str = "correct the line") -> DataError:
        """Make an error that names this line."""
        return DataError.at(self.path, self.where, problem, remedy)

    def unknown(self, what: str, got: object, allowed: Iterable[str]) -> DataError:
        """Make an error for a word that is not allowed; it suggests the nearest allowed word."""
        known = list(allowed)
        close = difflib.get_close_matches(str(got), known, 1)
        remedy = f"write {close[0]!r}" if close else f"use one of {', '.join(known)}"
        return self.error(f"unknown {what} {got!r:.80}", remedy)

    @property
    def where(self) -> str:
        """The number of the line, in words for messages."""
        return f"line {self.number}"


def id_of_path(path: str) -> str:
    """Make an id from a file's path, without its suffix and without the parts that lead out of a folder."""
    file = PurePosixPath(path)
    return "/".join([*(part for part in file.parent.parts if part not in ("..", file.anchor)), file.stem])


def read_labels(
    row: Mapping[str, Any], line: Line, taxonomy: Taxonomy
) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Read actions and reasons of a row as zeros and ones; both are None where the row has neither.

    Raises:
        DataError: for one without the other, or a name that the label set does not have.
    """
    given = [key for key in ("actions", "reasons") if key in row]
    if not given:
        return None, None
    if len(given) == 1:
        other = "reasons" if given == ["actions"] else "actions"
        remedy = "give both, an empty list where none holds, or neither for a scene without labels"
        raise line.error(f"has {given[0]} but no {other}", remedy)
    actions = dict(taxonomy.action_index)
    actions |= {alias: actions[name] for alias, name in taxonomy.action_aliases.items()}
    reasons = dict(taxonomy.reason_index) | {text: i for i, text in enumerate(taxonomy.reason_texts)}
    return (
        _flags_of_names(row["actions"], "action", actions, taxonomy.action_names, line, taxonomy),
        _flags_of_names(row["reasons"], "reason", reasons, taxonomy.reason_texts, line, taxonomy),
    )


def _flags_of_names(
    value: object, what: str, index: Mapping[str, int], names: tuple[str, ...], line: Line, taxonomy: Taxonomy
) -> tuple[int, ...]:
    """Convert a list of names to zeros and ones; case and spacing are free, as in answers."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise line.error(f"{what}s must be a list of names, got {value!r:.80}")
    flags = [0] * len(names)
    for name in value:
        i = index.get(name, index.get(" ".join(name.lower().split())))
        if i is None:
            close = difflib.get_close_matches(name.lower(), index, 1)
            nearest = names[index[close[0]]] if close else None
            remedy = f"write {nearest!r}" if nearest else f"write one of {', '.join(map(repr, names))}"
            problem = f"unknown {what} {name!r:.80} in the label set {taxonomy.name!r}"
            raise line.error(problem, f"{remedy}, or give the label set that has it as taxonomy")
        if flags[i]:
            raise line.error(f"{what} {names[i]!r} is named twice")
        flags[i] = 1
    return tuple(flags)


def read_texts(row: Mapping[str, Any], line: Line) -> tuple[str, ...]:
    """Read the descriptions of a row: one text, a list of texts, or none.

    Raises:
        DataError: for anything else.
    """
    value = row.get("text", [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(is_text(text) and text.strip() for text in texts):
        raise line.error(f"text must be a text or a list of texts, none of them empty, got {value!r:.80}")
    return tuple(text.strip() for text in texts)


def read_facts(facts: object, line: Line, scene_id: str) -> dict[str, str] | None:
    """Read the facts of a scene, every attribute with its value; None where the row has none.

    Args:
        facts: the value in the row.
        line: the line of the row.
        scene_id: for the message.

    Raises:
        DataError: for an unknown attribute or value, or a missing attribute, as a description may speak of any.
    """
    if facts is None:
        return None
    if not isinstance(facts, dict) or not all(is_text(text) for text in (*facts, *facts.values())):
        raise line.error(f"facts must be an object of texts, got {facts!r:.80}")
    for attribute, value in facts.items():
        if attribute not in ATTRIBUTES:
            raise line.unknown("attribute of facts", attribute, ATTRIBUTES)
        if value not in ATTRIBUTES[attribute]:
            raise line.unknown(f"value of {attribute!r} in facts", value, ATTRIBUTES[attribute])
    if lacking := [attribute for attribute in ATTRIBUTES if attribute not in facts]:
        problem = f"facts of scene {scene_id!r:.80} lack {', '.join(map(repr, lacking))}"
        raise line.error(problem, "name every attribute of lvad.facts.ATTRIBUTES, or leave facts out")
    return facts


class Span(NamedTuple):
    """A part of a video."""

    path: str
    """Path of the video, as the line has it."""
    video: Path
    start_s: float
    end_s: float
    is_whole: bool
    """Whether the line names neither start nor end."""
    video_stream: int | None

    @property
    def name(self) -> str:
        """An id for the scene: the video's path without suffix, with start and end where the span is a part."""
        name = id_of_path(self.path)
        return name if self.is_whole else f"{name}-{self.start_s:g}-{self.end_s:g}"

    def frames(self, num_frames: int, fps: float) -> tuple[VideoFrame, ...]:
        """Return the last frames of the span, as ``lvad.data.video_clips.clip_frames`` chooses them."""
        return clip_frames(self.video, self.start_s, self.end_s, num_frames, fps, self.video_stream)


def read_span(row: Mapping[str, Any], line: Line, video_stream: int | None) -> Span:
    """Read the span that a line names; ``start_s`` defaults to the video's beginning, ``end_s`` to its end.

    Raises:
        DataError: for times that are no numbers, reversed or outside the video, and a video that cannot be read.
    """
    path = row["video"]
    if not is_text(path) or not path:
        raise line.error(f"video must be a path, got {path!r:.80}")
    video = line.folder / path
    length = _length_s(video, line, video_stream)
    start_s, end_s = _seconds(row, "start_s", 0.0, line), _seconds(row, "end_s", length, line)
    if length is not None and max(start_s, end_s) > length + _ROUNDING_S:
        problem = f"span {start_s:g} to {end_s:g} s is outside the video {path!r:.80}, which has {length:.2f} s"
        raise line.error(problem, "correct the times, which count from its beginning")
    if start_s > end_s:
        raise line.error(f"span is reversed: start_s {start_s:g} is after end_s {end_s:g}", "exchange them")
    is_whole = "start_s" not in row and "end_s" not in row
    if length is not None:
        start_s, end_s = min(start_s, length), min(end_s, length)
    return Span(path, video, start_s, end_s, is_whole, video_stream)


def _length_s(video: Path, line: Line, video_stream: int | None) -> float | None:
    if video.suffix.lower() not in VIDEO_SUFFIXES:
        wanted = ", ".join(sorted(VIDEO_SUFFIXES))
        raise line.error(f"video {str(video)!r} is of a format that is not read", f"convert it to one of {wanted}")
    if not video.is_file():
        remedy = "restore it, correct its path, or remove the line"
        raise line.error(f"video {str(video)!r} is missing", remedy)
    try:
        return read_header(video, video_stream).length_s
    except DataError as error:
        raise line.error(str(error), "or remove the line") from error


def _seconds(row: Mapping[str, Any], key: str, default: float | None, line: Line) -> float:
    value = row.get(key, default)
    if value is None and key not in row:
        raise line.error("the video's length is unknown", "give end_s")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LONGEST_S:
        raise line.error(f"{key} must be seconds from the beginning of the video, got {value!r:.80}")
    return float(value)
