"""Find out which pictures and videos of a folder belong together, in which order, and how their scenes are named.

Every video is a sequence, and so are the pictures of a folder whose names count up: names that are the same but for
their numbers, of which one grows from picture to picture by small or nearly equal steps (``f_8``, ``f_9``, ``f_11``;
time stamps; ``000_f01710``, ``001_f01740``). Several such series in one folder are sequences of their own. Where most
pictures of a folder are in no series, as with names that are hashes, they are unrelated stills, each of them a scene.
"""

import re
from collections.abc import Collection, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from lvad.data.images import IMAGE_SUFFIXES, UNREAD_IMAGE_SUFFIXES, walk
from lvad.data.reading import check_exists
from lvad.data.videos import UNREAD_VIDEO_SUFFIXES, VIDEO_SUFFIXES
from lvad.errors import DataError

_UNREAD: Final = UNREAD_IMAGE_SUFFIXES | UNREAD_VIDEO_SUFFIXES
_NUMBER: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)")
_SMALL_STEP: Final = 10
"""Numbers whose median step is at most this may have uneven steps, as frames may be missing."""
_FEW_STEPS: Final = 4
"""Fewer steps than this can be nearly equal by chance."""
_LARGEST_OF_FEW: Final = 1000
_MOST_CAMERAS: Final = 16


class FrameSequence(NamedTuple):
    """Picture files in their order, or one video."""

    name: str
    """Name that is unique in a source."""
    ids: list[str]
    """Ids of the pictures; for a video one id, with which the ids of its pictures begin."""
    files: list[Path]
    """The files in order; for a video one file."""
    is_video: bool
    are_stills: bool
    """Whether the pictures are unrelated, so that each is a scene."""


class FoundSequences(NamedTuple):
    """The sequences of a folder, a picture or a video."""

    sequences: list[FrameSequence]
    unread: list[Path]
    """Pictures and videos in formats that are not read."""

    def notes(self, num_frames: int) -> list[str]:
        """Return notes for the user on how the files are read as scenes of ``num_frames``."""
        notes = []
        if self.unread:
            kinds = ", ".join(sorted({path.suffix.lower() for path in self.unread}))
            notes.append(
                f"{len(self.unread)} files left out: {kinds} are not read, convert them; first {self.unread[0]}"
            )
        stills = [file for part in self.sequences if part.are_stills for file in part.files]
        if num_frames > 1 and len(stills) > 1:
            notes.append(
                f"{len(stills)} pictures are unrelated stills, one frame a scene: their names do not count up, "
                f"first {stills[0].name} and {stills[1].name}; rename them (a_1, a_2, ...) if they are consecutive"
            )
        return notes


def find_sequences(root: Path) -> FoundSequences:
    """Find the sequences of a picture, a video, or a folder of either, in path order.

    Raises:
        DataError: if ``root`` cannot be reached, does not exist, or holds neither pictures nor videos.
    """
    check_exists(root)
    is_file = root.is_file()
    top = root.parent if is_file else root
    found = {"": [root.name]} if is_file else walk(root, IMAGE_SUFFIXES | VIDEO_SUFFIXES | _UNREAD)
    sequences, unread = [], []
    for folder, names in found.items():
        files = [top / folder / name for name in names]
        pictures, videos, others = (
            [file for file in files if file.suffix.lower() in suffixes]
            for suffixes in (IMAGE_SUFFIXES, VIDEO_SUFFIXES, _UNREAD)
        )
        sequences += _picture_sequences(folder, pictures)
        sequences += _video_sequences(folder, videos, found)
        unread += others
    if not sequences:
        wanted = ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
        left_out = f"; {len(unread)} files of other formats, first {unread[0]}" if unread else ""
        raise DataError.at(root, "", f"no pictures or videos ({wanted}){left_out}", "correct the path, or convert them")
    return FoundSequences(sequences, unread)


def _picture_sequences(folder: str, files: list[Path]) -> list[FrameSequence]:
    ids = sequence_names(folder, files)
    parts = [(part, False) for part in split_series([file.stem for file in files])]
    counted = {i for part, _ in parts for i in part}
    if stills := [i for i in range(len(files)) if i not in counted]:
        parts.append((stills, len(files) > 1))
    found = []
    for part, are_stills in sorted(parts):
        # One series is named after its folder, several after their first file.
        name = folder if len(parts) == 1 else f"{folder}/{files[part[0]].name}"
        found.append(FrameSequence(name, [ids[i] for i in part], [files[i] for i in part], False, are_stills))
    return found


def _video_sequences(folder: str, files: list[Path], taken: Collection[str]) -> list[FrameSequence]:
    names = sequence_names(folder, files, taken)
    return [FrameSequence(name, [name], [file], True, False) for name, file in zip(names, files, strict=True)]


def sequence_names(folder: str, files: list[Path], taken: Collection[str] = ()) -> list[str]:
    """Return ids: folder and stem of each file, with the suffixes where stems repeat or are taken: ids must differ."""
    short, whole = (
        [f"{folder}/{name}" if folder else name for name in names]
        for names in ([file.stem for file in files], [file.name for file in files])
    )
    return short if len({*short, *taken}) == len(short) + len(taken) else whole


def split_series(stems: Sequence[str]) -> list[list[int]]:
    """Find the series among the names of the pictures of a folder.

    Args:
        stems: names without suffix, in natural order.

    Returns:
        Indices of the names of each series, two or more; no series where at most half of the names are in one.
    """
    alike: dict[tuple[str, ...], list[int]] = {}
    numbers: list[list[Decimal]] = []
    for i, stem in enumerate(stems):
        parts = _NUMBER.split(stem)
        alike.setdefault(tuple(parts[::2]), []).append(i)
        numbers.append([Decimal(part) for part in parts[1::2]])
    series = [part for members in alike.values() for part in _series(members, numbers)]
    return series if 2 * sum(map(len, series)) > len(stems) else []


def _series(members: list[int], numbers: list[list[Decimal]]) -> list[list[int]]:
    """Find the series among names that are the same but for their numbers."""
    if len(members) < 2:
        return []
    columns = list(zip(*(numbers[i] for i in members), strict=True))
    if any(_counts_up(column) for column in columns):
        return [members]
    varying = [c for c, column in enumerate(columns) if len(set(column)) > 1]
    if not varying:
        return []
    chosen = next((c for c in varying[1:] if _numbers_cameras(columns[c], columns[varying[0]])), varying[0])
    parts: dict[Decimal, list[int]] = {}
    for i in members:
        parts.setdefault(numbers[i][chosen], []).append(i)
    return [found for part in parts.values() for found in _series(part, numbers)]


def _counts_up(column: Sequence[Decimal]) -> bool:
    steps = [after - before for before, after in pairwise(column)]
    if min(steps) <= 0:
        return False
    typical = median(steps)
    if typical <= _SMALL_STEP:
        return True
    if len(steps) < _FEW_STEPS:  # a hundredth: time stamps
        is_even = len(steps) > 1 and min(steps) == max(steps)
        return is_even or typical <= max(Decimal(_LARGEST_OF_FEW), column[0] / 100)
    return 4 * sum(typical / 2 <= step <= typical * 3 / 2 for step in steps) >= 3 * len(steps)


def _numbers_cameras(column: Sequence[Decimal], first: Sequence[Decimal]) -> bool:
    """Whether a number after the first varying one names the camera (``0001_cam2``)."""
    values = set(column)
    is_run = max(values) - min(values) + 1 == len(values)
    return is_run and len(values) <= min(_MOST_CAMERAS, len(set(first)) - 1)
