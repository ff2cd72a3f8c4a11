"""A span of a video in place of frames: ``{"video": "a.mp4", "start_s": 1.0, "end_s": 5.0}``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from lvad.data.clips import moments, read_header
from lvad.data.lines import Line, name_of
from lvad.data.records import is_text
from lvad.data.videos import VIDEO_SUFFIXES
from lvad.errors import DataError
from lvad.types import VideoFrame

SPAN_KEYS: Final = ("video", "start_s", "end_s")
_ROUNDING_S: Final = 0.05
"""An end so little behind the video's is the video's."""
_LONGEST_S: Final = 1e9


class Span(NamedTuple):
    """A part of a video."""

    path: str
    """As the line has it."""
    video: Path
    start_s: float
    end_s: float
    is_whole: bool
    """Whether the line names neither start nor end."""
    video_stream: int | None

    @property
    def name(self) -> str:
        """An id: the video's path without suffix, and the times of a part."""
        name = name_of(self.path)
        return name if self.is_whole else f"{name}-{self.start_s:g}-{self.end_s:g}"

    def frames(self, num_frames: int, fps: float) -> tuple[VideoFrame, ...]:
        """Its last frames, as ``lvad.data.clips.moments`` has them."""
        return moments(self.video, self.start_s, self.end_s, num_frames, fps, self.video_stream)


def read_span(row: Mapping[str, Any], line: Line, video_stream: int | None) -> Span:
    """The span that a line names; without ``start_s`` from the video's beginning, without ``end_s`` to its end.

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
