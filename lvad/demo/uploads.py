"""Uploaded files: bounded in bytes and number, kept in a folder during a request, read as data is."""

import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from lvad.data.frames import video_frames
from lvad.data.images import IMAGE_SUFFIXES, natural_key
from lvad.data.videos import VIDEO_SUFFIXES
from lvad.errors import DataError

_MAX_FIELDS: Final = 8
_MAX_NAME_CHARS: Final = 80


class Limits(NamedTuple):
    """Bounds of an upload; ``lvad.data.images.open_image`` bounds the pixels of a picture."""

    max_mb: float = 64.0
    """Size of all files of an upload together, in 2^20 bytes."""
    max_frames: int = 64
    """Most pictures of an upload, or of those taken from a video."""


@asynccontextmanager
async def receive_upload(request: Request, limits: Limits) -> AsyncIterator[tuple[FormData, Path]]:
    """Receive a form, with its files in a folder that is removed at the end of the block.

    Args:
        request: a ``multipart/form-data`` POST.
        limits: what it may hold.

    Yields:
        The form, and a folder with its files: each in a folder of its own number, under its own name made harmless.

    Raises:
        DataError: if it is larger than the limits, or no form.
    """
    with tempfile.TemporaryDirectory(prefix="lvad-demo-") as scratch:
        form = await _parsed(request, limits)
        try:
            files = [part for part in form.getlist("frames") if isinstance(part, UploadFile) and part.filename]
            for number, part in enumerate(files):
                folder = Path(scratch) / str(number)
                folder.mkdir()
                with (folder / _safe_file_name(part.filename or "")).open("wb") as file:
                    shutil.copyfileobj(part.file, file)
            yield form, Path(scratch)
        finally:
            await form.close()


def frame_files(folder: Path, fps: float, limits: Limits) -> list[Path]:
    """List the frames of an upload as one scene, oldest first: pictures in the order of their names, or a video's.

    Args:
        folder: as ``receive_upload`` fills it.
        fps: pictures per second taken from a video.
        limits: as for ``receive_upload``.

    Raises:
        DataError: without files, for files of another kind, or a video that cannot be read or is too long.
    """
    files = sorted((path for path in folder.glob("*/*") if path.is_file()), key=lambda path: natural_key(path.name))
    if not files:
        raise DataError("nothing was chosen; choose a picture, several frames of one scene, or a video")
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    for path in files:
        if path.suffix.lower() not in known:
            raise DataError(f"{path.name} is neither a picture nor a video; give one of {', '.join(sorted(known))}")
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    if videos and len(files) > 1:
        raise DataError(f"{videos[0].name} is a video among {len(files)} files; give one video, or pictures only")
    if videos:
        return video_frames(videos[0], fps, folder / "decoded", max_frames=limits.max_frames)
    return files


def without_folder(message: str, folder: Path) -> str:
    """Take the server's folder out of a message: the visitor knows the files by their names."""
    return re.sub(rf"{re.escape(str(folder))}/\d+/", "", message)


async def _parsed(request: Request, limits: Limits) -> FormData:
    body = _Body(request, limits.max_mb)
    if not request.headers.get("Content-Type", "").startswith("multipart/form-data"):
        await body.drain()
        raise DataError("the upload is no form with files; send it with the page's own form")
    parser = MultiPartParser(request.headers, body.bounded(), max_files=limits.max_frames, max_fields=_MAX_FIELDS)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:  # KeyError: its header names no boundary
        await body.drain()
        reason = getattr(error, "message", "it names no boundary")
        problem = f"the upload cannot be read ({reason})"
        raise DataError(f"{problem}; send at most {limits.max_frames} files with the page's own form") from error
    try:
        body.check()
    except DataError:
        await form.close()
        raise
    return form


class _Body:
    """The bytes of a request; no more than allowed are handed on.

    A body that is too large is read to its end, because a browser shows no answer before it has sent everything.
    """

    def __init__(self, request: Request, max_mb: float) -> None:
        self.max_mb, self._num_bytes, self._stream = max_mb, 0, request.stream()

    async def bounded(self) -> AsyncGenerator[bytes, None]:
        async for chunk in self._stream:
            self._num_bytes += len(chunk)
            if self._num_bytes <= self.max_mb * 2**20:
                yield chunk

    async def drain(self) -> None:
        async for chunk in self._stream:
            self._num_bytes += len(chunk)
        self.check()

    def check(self) -> None:
        if self._num_bytes > self.max_mb * 2**20:
            size = f"{self._num_bytes / 2**20:.1f} MB"
            raise DataError(f"the upload holds {size}, allowed are {self.max_mb:g}; send less, or raise --max_mb")


def _safe_file_name(name: str) -> str:
    """Return a file name without folders and unprintable characters, with its suffix."""
    last = re.split(r"[/\\]", name)[-1]
    safe = re.sub(r"[^\w.\- ]+", "_", last).lstrip(".")[-_MAX_NAME_CHARS:]
    return safe or "unnamed"
