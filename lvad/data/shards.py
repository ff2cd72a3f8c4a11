"""Read shards of footage: tar files of frames, from which any scene can be read without reading the rest.

folder/
    footage.json     written last: {"format", "recipe", "scenes": scenes of each shard, "left_out": number of files}
    000000.tar       frames in time order, each once, as WebDataset wants them: 000000-000017.jpg
    000000.json      where they lie: {"bytes": of the tar, "frames": [[first byte, bytes], ...],
                     "scenes": [[id, first frame, frames], ...], "position": how far the source was read}

The frames of a scene are neighbours, so a scene is one range of bytes, on a disk, an HTTP server or an object store.
Names of files are counted, never read from a file, and nothing is unpacked: no id leads out of the folder.
"""

import json
import os
import time
from collections import OrderedDict
from hashlib import sha256
from typing import Any, Final, NamedTuple

import fsspec
import numpy as np
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from lvad.errors import DataError

FORMAT: Final = "lvad-footage/1"
INDEX: Final = "footage.json"
NUM_TABLES: Final = 64
"""How many tables of shards one process keeps in memory, 60 kB each at 1,000 scenes a shard."""
_WAITS_S: Final = (1, 4, 16, 64)
"""Pauses before each further attempt to read from a server."""


def shard_name(number: int) -> str:
    """File name of a shard without its suffix."""
    return f"{number:06d}"


class ShardTable(NamedTuple):
    """The byte ranges of the frames of one shard, and the frames of each of its scenes."""

    frames: list[tuple[int, int]]
    """First byte and number of bytes of each frame."""
    scenes: list[tuple[str, int, int]]
    """Id, first frame and number of frames of each scene."""


class ShardFolder:
    """A folder of shards, here or on a server, of which scenes are read one by one.

    Memory holds the number of scenes of each shard, and the tables of the shards that were read last.

    Args:
        url: a folder, or a URL for fsspec (``https://``, ``s3://``, ``gs://``).

    Raises:
        DataError: if there is no finished footage, or its index cannot be used.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: tuple[int, AbstractFileSystem, str] | None = None
        self._tables: OrderedDict[int, ShardTable] = OrderedDict()
        content = self._read(INDEX)
        index = _parse(content, self._where(INDEX))
        counts = index.get("scenes") if index.get("format") == FORMAT else None
        if not isinstance(counts, list) or not counts or not all(type(n) is int and n > 0 for n in counts):
            problem = f"no index of {FORMAT} with at least one scene in each shard"
            raise DataError.at(self._where(INDEX), "", problem, "make the shards again with lvad data shard")
        self.counts: NDArray[np.int64] = np.array(counts, dtype=np.int64)
        """Number of scenes of each shard."""
        self.digest = sha256(content).hexdigest()[:12]
        """Digest of the index, which tells this footage from another."""

    @property
    def num_scenes(self) -> int:
        """Number of scenes of all shards."""
        return int(self.counts.sum())

    def __str__(self) -> str:
        return f"{self.url} ({self.num_scenes:,} scenes in {len(self.counts):,} shards, index {self.digest})"

    def read(self, shard: int, place: int, num_frames: int) -> tuple[str, list[str], list[bytes]]:
        """Read the last frames of one scene.

        Args:
            shard: its number.
            place: of the scene in the shard.
            num_frames: M; a scene with fewer frames gives what it has.

        Returns:
            The scene's id, and M frames: how to name each in a message, and the bytes of its picture.

        Raises:
            DataError: naming the shard, if it is missing, shorter than its table says, or cannot be reached.
        """
        name = f"{shard_name(shard)}.tar"
        scene_id, first, count = self._table(shard).scenes[place]
        numbers = range(first + max(0, count - num_frames), first + count)
        places = [self._table(shard).frames[i] for i in numbers]
        start, end = places[0][0], sum(places[-1])
        content = self._read(name, start, end)
        if len(content) != end - start:
            problem = f"gave {len(content)} bytes where bytes {start} to {end} were asked for"
            remedy = "make the shard again, or copy it whole; a web server must serve ranges of bytes"
            raise DataError.at(self._where(name), f"scene {scene_id!r}", problem, remedy)
        return (
            scene_id,
            [f"{self._where(name)}, frame {i}" for i in numbers],
            [content[at - start : at - start + size] for at, size in places],
        )

    def _table(self, shard: int) -> ShardTable:
        if shard not in self._tables:
            name = f"{shard_name(shard)}.json"
            where = self._where(name)
            table = parse_table(_parse(self._read(name), where), where)
            if len(table.scenes) != self.counts[shard]:
                problem = f"lists {len(table.scenes)} scenes, {INDEX} {self.counts[shard]}"
                raise DataError.at(where, "", problem, "copy the folder whole, or make the shards again")
            self._tables[shard] = table
            if len(self._tables) > NUM_TABLES:
                self._tables.popitem(last=False)
        self._tables.move_to_end(shard)
        return self._tables[shard]

    def _read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Read a range of bytes of a file; a server is asked again after a pause."""
        waits = () if isinstance(self._files()[0], LocalFileSystem) else _WAITS_S
        for wait_s in (*waits, None):
            files, root = self._files()
            try:
                return files.cat_file(f"{root}/{name}", start=start, end=end)  # type: ignore[return-value]
            except FileNotFoundError as error:
                remedy = "correct the path" if name == INDEX else "copy the folder whole, or make the shards again"
                problem = "there is none: no footage, or not finished" if name == INDEX else "is missing"
                raise DataError.at(self._where(name), "", problem, remedy) from error
            except Exception as error:  # every protocol has its own
                if wait_s is None:
                    problem = f"cannot be read ({type(error).__name__}: {error})"
                    raise DataError.at(self._where(name), "", problem, "check disk, network and rights") from error
                time.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _files(self) -> tuple[AbstractFileSystem, str]:
        """Return a file system that this process opened, as no connection survives a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                files, root = fsspec.url_to_fs(self.url, skip_instance_cache=True)
            except (ImportError, ValueError) as error:
                raise DataError.at(self.url, "", f"cannot be opened: {error}", "install it, or copy it here") from error
            self._opened = os.getpid(), files, root.rstrip("/")
        return self._opened[1:]

    def _where(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{name}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def parse_table(content: dict[str, Any], where: str) -> ShardTable:
    """Check the content of a shard's JSON file, and return it as a table.

    Raises:
        DataError: naming the file, where a scene has no frame or one that is not there.
    """
    try:
        frames = [(int(start), int(size)) for start, size in content["frames"]]
        scenes = [(str(name), int(first), int(count)) for name, first, count in content["scenes"]]
        for name, first, count in scenes:
            if first < 0 or count < 1 or first + count > len(frames):
                raise ValueError(f"scene {name!r} has no such frames")
        if any(start < 0 or size < 1 for start, size in frames):
            raise ValueError("a frame has no bytes")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError.at(where, "", f"no table of a shard: {error}", "make the shards again") from error
    return ShardTable(frames, scenes)


def _parse(content: bytes, where: str) -> dict[str, Any]:
    remedy = "copy the folder whole, or make the shards again"
    try:
        parsed = json.loads(content)
    # A deeply nested file ends in RecursionError, every other fault in ValueError.
    except (ValueError, RecursionError) as error:
        raise DataError.at(where, "", f"not usable JSON: {error}", remedy) from error
    if not isinstance(parsed, dict):
        raise DataError.at(where, "", "top level is no object", remedy)
    return parsed


def dump_json(content: dict[str, Any]) -> bytes:
    """Encode content as compact JSON."""
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"
