"""Read scenes without labels from plain pictures and videos.

The scenes of a sequence (``lvad.data.sequences``) are its sliding windows of M frames, each named after its last frame:
without the suffix, or with it where files of a folder differ in nothing else. An unrelated still is a scene by itself.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from av.error import FFmpegError

from lvad.data.reading import Reading, plain_file
from lvad.data.sequences import find_sequences, sequence_names
from lvad.data.videos import sample_video
from lvad.errors import DataError
from lvad.types import Scene

_NOTES: Final = "notes.txt"
"""Name of the file beside a video's pictures that holds the notes of its decoding."""
_DECODING: Final = 2
"""Version of the decoding; raised when the same video gives other pictures than before."""


def read_frames(
    root: Path,
    num_frames: int,
    stride: int = 1,
    fps: float = 1.0,
    video_stream: int | None = None,
    from_first: bool = False,
) -> Reading:
    """Read a picture, a video, or a folder of either, as scenes without labels.

    Args:
        root: one file, or a folder (searched with its sub-folders).
        num_frames: M, the length of a window; a shorter sequence gives one scene with the frames it has.
        stride: distance between the last frames of neighbouring scenes of a sequence, in frames.
        fps: frames per second taken from a video; its pictures go to a cache folder.
        video_stream: as for ``sample_video``.
        from_first: let every frame end a scene, so that the first scenes of a sequence have fewer than M frames.

    Returns:
        Scenes in path order, with split ``""``; ``errors`` name unreadable videos, ``warnings`` what was left out or
        taken as unrelated stills.

    Raises:
        DataError: if ``root`` cannot be reached, or holds neither pictures nor videos.
    """
    found = find_sequences(root)
    reading = Reading("frames", warnings=found.notes(num_frames))
    for part in found.sequences:
        with reading.collect_errors():
            ids, files = part.ids, part.files
            if part.is_video:
                files = video_frames(part.files[0], fps, video_stream=video_stream)
                ids = sequence_names(part.name, files)
                reading.warnings += _notes(files[0].parent)
            length, step = (1, 1) if part.are_stills else (num_frames, stride)
            reading.scenes += _windows(ids, files, length, step, 1 if from_first else length)
    return reading


def _windows(ids: list[str], frames: list[Path], num_frames: int, stride: int, shortest: int) -> Iterator[Scene]:
    for end in range(min(shortest, len(frames)), len(frames) + 1, stride):
        yield Scene(ids[end - 1], tuple(frames[max(0, end - num_frames) : end]), split="")


def video_frames(
    path: Path, fps: float, cache: Path | None = None, video_stream: int | None = None, max_frames: int | None = None
) -> list[Path]:
    """Decode a video, one frame in memory at a time, to JPEG files that later calls find again.

    Args:
        path: a video file.
        fps: pictures per second of video; a video with fewer gives every frame it has.
        cache: folder for the pictures; a private one in the system's temporary folder if None.
        video_stream: as for ``sample_video``.
        max_frames: refuse a video with more pictures; None takes any number.

    Returns:
        The pictures in time order.

    Raises:
        DataError: if the file is missing, no video, broken before its end, or longer than ``max_frames``.
        ValueError: if ``fps`` is not positive.
    """
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    try:
        stat = plain_file(path)
    except (OSError, ValueError) as error:
        raise DataError.at(path, "", f"video cannot be read: {error}", "correct the path") from error
    identity = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{fps}|{video_stream}|{_DECODING}"
    cache = cache or Path(tempfile.gettempdir()) / f"lvad-{os.getuid()}"
    folder = cache / hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]
    if not folder.is_dir():
        try:
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_frames(path, fps, video_stream, folder, max_frames)
        except (OSError, FFmpegError) as error:
            problem = f"video cannot be decoded ({type(error).__name__}: {error})"
            raise DataError.at(path, "", problem, "fetch the file again, or free disk space") from error
    found = sorted(folder.glob("*.jpg"))
    _check_length(path, fps, len(found), max_frames)  # what was decoded before may be longer
    return found


def _check_length(path: Path, fps: float, num_frames: int, max_frames: int | None) -> None:
    if max_frames is not None and num_frames > max_frames:
        problem = f"video has more than {max_frames} pictures at {fps:g} a second"
        raise DataError.at(path, "", problem, "cut it shorter")


def _write_frames(path: Path, fps: float, video_stream: int | None, folder: Path, max_frames: int | None) -> None:
    """Write to a temporary folder and rename it, so that a killed run or a second process leaves no partial folder."""
    working = Path(tempfile.mkdtemp(dir=folder.parent))
    notes: list[str] = []
    try:
        for i, image in enumerate(sample_video(path, fps, video_stream, notes.append)):
            _check_length(path, fps, i + 1, max_frames)
            image.save(working / f"{i:06d}.jpg", quality=95)
        if not any(working.iterdir()):
            raise DataError.at(path, "", "video has no frame", "fetch the file again")
        if notes:
            (working / _NOTES).write_text("\n".join(notes), encoding="utf-8", errors="surrogateescape")
        try:
            working.rename(folder)
        except OSError:
            # Another process may have finished the same folder first.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(working, ignore_errors=True)


def _notes(folder: Path) -> list[str]:
    path = folder / _NOTES
    return path.read_text(encoding="utf-8", errors="surrogateescape").split("\n") if path.is_file() else []
