"""Scenes without labels from plain pictures and videos.

Every folder that holds pictures is one sequence, in natural order of the names, and so is every video. The
scenes of a sequence are its sliding windows of M frames, each named after its last frame: without the suffix, or
with it where files of a folder differ in nothing else. Unrelated stills in one folder call for
``num_frames=1``: names do not tell them from consecutive frames.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import av
from av.error import FFmpegError
from av.video.frame import VideoFrame
from PIL import Image

from lvad.data.images import IMAGE_SUFFIXES, walk
from lvad.data.records import DataError, Reading, check_path, plain_file
from lvad.types import Scene

VIDEO_SUFFIXES: Final = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})
# FFmpeg goes by what a file holds and not by its name: a list of other files, or of addresses, would be followed.
_LIMITS: Final = {
    "format_whitelist": "mov,mp4,avi,matroska,webm,mpeg,mpegts,mpegvideo,m4v",
    "protocol_whitelist": "file",
    "max_pixels": str(Image.MAX_IMAGE_PIXELS),  # of a frame, as of a picture
}


def read_frames(root: Path, num_frames: int, stride: int = 1, fps: float = 1.0) -> Reading:
    """Read a picture, a video, or a folder of either, as scenes without labels.

    Args:
        root: one file, or a folder (searched with its sub-folders).
        num_frames: M, the length of a window; a shorter sequence gives one scene with the frames it has.
        stride: distance between the last frames of neighbouring scenes, in frames.
        fps: frames per second taken from a video; its pictures go to a cache folder.

    Returns:
        Scenes in path order, with split ``""``; unreadable videos are in ``errors``.

    Raises:
        DataError: if ``root`` cannot be reached, or holds neither pictures nor videos.
    """
    check_path(root)
    reading = Reading("frames")
    if root.is_file():
        sequences = {"": [root]}
    else:
        found = walk(root, IMAGE_SUFFIXES | VIDEO_SUFFIXES)
        sequences = {folder: [root / folder / name for name in names] for folder, names in found.items()}
    for folder, files in sequences.items():
        pictures, videos = (
            [file for file in files if file.suffix.lower() in suffixes] for suffixes in (IMAGE_SUFFIXES, VIDEO_SUFFIXES)
        )
        reading.scenes += _windows(folder, pictures, num_frames, stride)
        for name, video in zip(sequence_names(folder, videos, sequences), videos, strict=True):
            with reading.gather():
                reading.scenes += _windows(name, video_frames(video, fps), num_frames, stride)
    if not reading.scenes and not reading.errors:
        wanted = ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
        raise DataError.at(root, "", f"no pictures or videos ({wanted})", "correct the path")
    return reading


def _windows(sequence: str, frames: list[Path], num_frames: int, stride: int) -> Iterator[Scene]:
    names = sequence_names(sequence, frames)
    for end in range(min(num_frames, len(frames)), len(frames) + 1, stride) if frames else ():
        yield Scene(names[end - 1], tuple(frames[max(0, end - num_frames) : end]), split="")


def sequence_names(folder: str, files: list[Path], taken: Collection[str] = ()) -> list[str]:
    """Ids: folder and stem of each file; with the suffixes where stems repeat or are taken, for ids must differ."""
    short, whole = (
        [f"{folder}/{name}" if folder else name for name in names]
        for names in ([file.stem for file in files], [file.name for file in files])
    )
    return short if len({*short, *taken}) == len(short) + len(taken) else whole


def video_frames(path: Path, fps: float, cache: Path | None = None) -> list[Path]:
    """Decode a video, one frame in memory at a time, to JPEG files that later calls find again.

    Args:
        path: a video file.
        fps: pictures per second of video; a video with fewer gives every frame it has.
        cache: folder for the pictures; a private one in the system's temporary folder if None.

    Returns:
        The pictures in time order.

    Raises:
        DataError: if the file is missing, no video, or broken before its end.
        ValueError: if ``fps`` is not positive.
    """
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    try:
        stat = plain_file(path)
    except (OSError, ValueError) as error:
        raise DataError.at(path, "", f"video cannot be read: {error}", "correct the path") from error
    identity = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{fps}"
    key = hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]
    cache = cache or Path(tempfile.gettempdir()) / f"lvad-{os.getuid()}"
    folder = cache / key
    if not folder.is_dir():
        try:
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_frames(path, fps, folder)
        except (OSError, FFmpegError) as error:
            problem = f"video cannot be decoded ({type(error).__name__}: {error})"
            raise DataError.at(path, "", problem, "fetch the file again, or free disk space") from error
    return sorted(folder.glob("*.jpg"))


def _write_frames(path: Path, fps: float, folder: Path) -> None:
    """Fill ``folder`` in one step: a run that is killed, or a second process, leaves no half of it behind."""
    working = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        for i, image in enumerate(sample_video(path, fps)):
            image.save(working / f"{i:06d}.jpg", quality=95)
        if not any(working.iterdir()):
            raise DataError.at(path, "", "video has no frame", "fetch the file again")
        try:
            working.rename(folder)
        except OSError:
            # Another process may have finished the same folder first.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(working, ignore_errors=True)


def sample_video(path: Path, fps: float) -> Iterator[Image.Image]:
    """Decode a video's pictures one by one, upright, at most ``fps`` of them per second of video.

    Raises:
        DataError: if the file has no video stream.
        FFmpegError: if it is no video, or broken before its end.
        OSError: if it cannot be read.
    """
    due_s = None
    # A title that is no UTF-8 is no reason to refuse a video.
    with av.open(str(path), options=_LIMITS, metadata_errors="replace") as container:
        if not container.streams.video:
            raise DataError.at(path, "", "file has no video stream", "correct the path")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise DataError.at(path, "", "FFmpeg has no decoder for its video", "convert it to another codec")
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": _LIMITS["max_pixels"]}
        for i, frame in enumerate(container.decode(stream)):
            # Some containers carry no time stamps.
            time_s = frame.time if frame.time is not None else i / float(stream.average_rate or 25)
            # Half a millisecond of tolerance: containers round their time stamps.
            if due_s is None or time_s >= due_s - 5e-4:
                # The later of both: after a gap in the video there is nothing to catch up.
                due_s = max(time_s, (time_s if due_s is None else due_s) + 1 / fps)
                yield _upright(frame)


def _upright(frame: VideoFrame) -> Image.Image:
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image
