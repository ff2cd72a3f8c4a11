"""Read the scenes of folders of frames and videos one after the other, to write them into shards.

Order, scenes and ids are those of ``lvad.data.frames.read_frames``, without its copies of videos on the disk: one
frame at a time is decoded, and the M frames of a scene are all that is held. Unrelated stills are a scene each.

What cannot be decoded is left out, reported and counted. Where a frame is left out, or the size changes, a new sequence
begins: no scene spans a gap.
"""

import io
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from av.error import FFmpegError
from PIL import Image
from tqdm import tqdm

from lvad.data.images import open_image
from lvad.data.reading import plain_file, read_name
from lvad.data.sequences import FrameSequence, find_sequences
from lvad.data.videos import sample_video
from lvad.errors import DataError

_JPEG_QUALITY: Final = 90
"""Quality of frames that come from a video or are reduced."""


@dataclass(frozen=True)
class ShardRecipe:
    """Source and settings of shards of footage; the same recipe makes the same files.

    Args:
        source: a folder, searched with its sub-folders, a picture or a video.
        num_frames: M, frames of a scene; a shorter sequence gives one scene with the frames it has.
        stride: distance between the last frames of neighbouring scenes, in frames.
        fps: frames per second taken from a video.
        scenes_per_shard: how many a shard holds; the last one holds the rest.
        image_size_px: longest edge to which larger frames are reduced; None keeps every picture's bytes as they are.
        video_stream: which of a video's several streams, as for ``sample_video``.

    Raises:
        ValueError: for a value out of range.
    """

    source: str
    num_frames: int = 2
    stride: int = 1
    fps: float = 1.0
    scenes_per_shard: int = 1000
    image_size_px: int | None = None
    video_stream: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_frames", "stride", "scenes_per_shard", "image_size_px"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not self.fps > 0:
            raise ValueError(f"fps must be positive, got {self.fps}")


class EncodedFrame(NamedTuple):
    """One frame as it goes into a shard."""

    id: str
    content: bytes
    """Bytes of a picture file that can be decoded."""
    suffix: str
    size: tuple[int, int]
    """Width and height in pixels, upright."""


class SourcePosition(NamedTuple):
    """How far the source was read."""

    sequence: str | None
    """The last sequence that gave a scene."""
    scenes: int
    """How many that sequence has given."""
    left_out: int
    """Number of files, or rests of videos, that were left out before."""


class ShardSource:
    """The scenes of a folder of pictures and videos, one after the other, and what had to be left out.

    Args:
        recipe: what to read, and how.
        progress: show a bar of the source's bytes.

    Raises:
        DataError: if there are neither pictures nor videos.
    """

    def __init__(self, recipe: ShardRecipe, progress: bool) -> None:
        self.recipe = recipe
        found = find_sequences(Path(recipe.source).expanduser())
        self.sequences = found.sequences
        self.num_left_out = 0
        self.position = SourcePosition(None, 0, 0)
        """The position after the last scene that was given."""
        total = sum(_num_bytes(file) for sequence in self.sequences for file in sequence.files)
        self._bar = tqdm(total=total, desc="sharding", unit="B", unit_scale=True, disable=not progress or None)
        for note in found.notes(recipe.num_frames):
            _print_note(note)

    def scenes(self, position: SourcePosition) -> Iterator[tuple[EncodedFrame, ...]]:
        """Yield every scene after a position. Earlier sequences are not decoded, except the one that it lies in.

        Raises:
            DataError: if the sequence of the position is gone.
        """
        names = [sequence.name for sequence in self.sequences]
        if position.sequence is not None and position.sequence not in names:
            problem = f"{position.sequence!r}, out of which shards were made already, is gone"
            raise DataError.at(self.recipe.source, "", problem, "restore it, or begin in another folder")
        start = 0 if position.sequence is None else names.index(position.sequence)
        self._bar.update(sum(_num_bytes(file) for sequence in self.sequences[:start] for file in sequence.files))
        total = 0
        for i, sequence in enumerate(self.sequences[start:]):
            length, stride = (1, 1) if sequence.are_stills else (self.recipe.num_frames, self.recipe.stride)
            windows = _windows(self._frames(sequence), length, stride)
            given = len([None for _ in islice(windows, position.scenes if i == 0 else 0)])
            if given:
                self.num_left_out = position.left_out  # those on the way there were counted before
            for scene in windows:
                given, total = given + 1, total + 1
                self.position = SourcePosition(sequence.name, given, self.num_left_out)
                self._bar.set_postfix_str(f"{total} scenes", refresh=False)
                yield scene
        self._bar.close()

    def _frames(self, sequence: FrameSequence) -> Iterator[EncodedFrame | None]:
        """Yield the frames of a sequence, None for one that cannot be decoded."""
        if sequence.is_video:
            yield from self._video_frames(sequence)
            return
        for name, path in zip(sequence.ids, sequence.files, strict=True):
            frame = None
            try:
                frame = _picture_frame(read_name(name, "name", path, ""), path, self.recipe.image_size_px)
            except DataError as error:
                self._leave_out(error)
            except (OSError, ValueError) as error:
                self._leave_out(f"{path}: cannot be read: {error}")
            yield frame
            self._bar.update(_num_bytes(path))

    def _video_frames(self, sequence: FrameSequence) -> Iterator[EncodedFrame | None]:
        path = sequence.files[0]
        try:
            read_name(sequence.name, "name", path, "")
            plain_file(path)
            for i, image in enumerate(sample_video(path, self.recipe.fps, self.recipe.video_stream, _print_note)):
                image = _reduced(image, self.recipe.image_size_px)
                yield EncodedFrame(f"{sequence.name}/{i:06d}", _jpeg(image), ".jpg", image.size)
        except (FFmpegError, OSError, ValueError) as error:  # a DataError is a ValueError
            self._leave_out(f"{path}: the rest cannot be decoded ({type(error).__name__}: {error})")
            yield None
        self._bar.update(_num_bytes(path))

    def _leave_out(self, what: object) -> None:
        self.num_left_out += 1
        tqdm.write(f"left out: {what}", file=sys.stderr)


def _num_bytes(path: Path) -> int:
    """Return a file's size for the progress bar; 0 for a file that cannot be read and is left out later."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _print_note(text: str) -> None:
    tqdm.write(f"note: {text}", file=sys.stderr)


def _picture_frame(name: str, path: Path, image_size_px: int | None) -> EncodedFrame:
    """Read a picture and check that it can be decoded. Larger pictures are reduced, others keep their bytes."""
    plain_file(path)
    content = path.read_bytes()
    image = open_image(path, image_size_px, content)
    if image_size_px is not None and max(Image.open(io.BytesIO(content)).size) > image_size_px:
        return EncodedFrame(name, _jpeg(image), ".jpg", image.size)
    return EncodedFrame(name, content, path.suffix.lower(), image.size)


def _windows(frames: Iterable[EncodedFrame | None], num_frames: int, stride: int) -> Iterator[tuple[EncodedFrame, ...]]:
    """Yield sliding windows of M frames, or one shorter window where a sequence has fewer."""
    held: deque[EncodedFrame] = deque(maxlen=num_frames)
    length = 0
    for frame in frames:
        if frame is None or (held and frame.size != held[-1].size):
            if 0 < length < num_frames:
                yield tuple(held)
            held.clear()
            length = 0
        if frame is not None:
            held.append(frame)
            length += 1
            if length >= num_frames and (length - num_frames) % stride == 0:
                yield tuple(held)
    if 0 < length < num_frames:
        yield tuple(held)


def _reduced(image: Image.Image, longest_px: int | None) -> Image.Image:
    if longest_px is not None and max(image.size) > longest_px:
        image.thumbnail((longest_px, longest_px), Image.Resampling.BICUBIC)
    return image


def _jpeg(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=_JPEG_QUALITY)
    return content.getvalue()
