"""Write shards of footage from folders of frames and videos, so that an interrupted run can be resumed.

The source is read in the order of ``lvad.data.frames.read_frames``, and cut into shards of equally many scenes. A shard
gets its name when it is whole and on the disk, its table after it, the index after all shards. A table records how far
the source was read, so an interrupted run resumes after its last table. Every file with a final name is whole; others
are ignored.
"""

import fcntl
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from lvad.data.reading import read_json
from lvad.data.shard_source import EncodedFrame, ShardRecipe, ShardSource, SourcePosition
from lvad.data.shards import FORMAT, INDEX, dump_json, parse_table, shard_name
from lvad.errors import DataError

_STARTED: Final = "started.json"
"""The recipe of footage that is not finished."""
_TEMPORARY: Final = ".lvad-"


class FootageSummary(NamedTuple):
    """The counts of a finished folder of shards."""

    num_scenes: int
    num_shards: int
    num_left_out: int
    """Files, or rests of videos, that could not be decoded."""


def write_shards(recipe: ShardRecipe, folder: Path, progress: bool = True) -> FootageSummary:
    """Make shards of footage, or resume an earlier run with the same recipe that was interrupted.

    Memory holds the frames of one scene, the disk the finished shards and the one that is being written.

    Args:
        recipe: what to make.
        folder: folder of the shards: empty, absent, or left by such a run.
        progress: show a bar of the source's bytes.

    Raises:
        DataError: if the source holds no scene, the folder holds anything else, or another run writes to it.
    """
    source = ShardSource(recipe, progress)
    with _locked(folder, recipe):
        counts, position = _finished_shards(folder)
        scenes = source.scenes(position)
        for first in scenes:  # the shard before is whole by now: a shard is begun only if there is a scene for it
            counts.append(
                _write_shard(folder, len(counts), chain([first], islice(scenes, recipe.scenes_per_shard - 1)), source)
            )
        if not counts:
            (folder / _STARTED).unlink()
            raise DataError.at(recipe.source, "", "nothing in it could be decoded", "fetch the files again")
        left_out = source.num_left_out
        index = {"format": FORMAT, "recipe": asdict(recipe), "scenes": counts, "left_out": left_out}
        _write_whole(folder / INDEX, lambda path: path.write_bytes(dump_json(index)))
        (folder / _STARTED).unlink()
    return FootageSummary(sum(counts), len(counts), left_out)


def _write_shard(folder: Path, number: int, scenes: Iterable[tuple[EncodedFrame, ...]], source: ShardSource) -> int:
    """Write a shard and then its table; returns how many scenes it holds."""
    rows: list[tuple[str, int, int]] = []

    def write(path: Path) -> None:
        """Write the tar file, each frame once, and note in ``rows`` which frames a scene has."""
        numbers: dict[str, int] = {}
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for scene in scenes:
                for frame in scene:
                    if frame.id not in numbers:
                        info = tarfile.TarInfo(f"{shard_name(number)}-{len(numbers):06d}{frame.suffix}")
                        info.size = len(frame.content)
                        tar.addfile(info, io.BytesIO(frame.content))
                        numbers[frame.id] = len(numbers)
                rows.append((scene[-1].id, numbers[scene[0].id], len(scene)))

    tar_path = folder / f"{shard_name(number)}.tar"
    _write_whole(tar_path, write)
    with tarfile.open(tar_path) as tar:
        frames = [(member.offset_data, member.size) for member in tar]
    position = source.position._replace(left_out=source.num_left_out)._asdict()
    table = {"bytes": tar_path.stat().st_size, "frames": frames, "scenes": rows, "position": position}
    _write_whole(folder / f"{shard_name(number)}.json", lambda path: path.write_bytes(dump_json(table)))
    return len(rows)


def _finished_shards(folder: Path) -> tuple[list[int], SourcePosition]:
    """Return the number of scenes of each whole shard, and how far the source was read for them."""
    counts: list[int] = []
    position = SourcePosition(None, 0, 0)
    while (path := folder / f"{shard_name(len(counts))}.json").is_file():
        content: dict[str, Any] = read_json(path, dict)
        tar_path = path.with_suffix(".tar")
        if not tar_path.is_file() or tar_path.stat().st_size != content.get("bytes"):
            break
        counts.append(len(parse_table(content, str(path)).scenes))
        position = SourcePosition(**content["position"])
    return counts, position


@contextmanager
def _locked(folder: Path, recipe: ShardRecipe) -> Iterator[None]:
    """Lock the folder for this run, if it is empty or was begun with the same recipe.

    Raises:
        DataError: otherwise.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise DataError.at(folder, "", f"cannot be written to: {error}", "choose another folder") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError.at(folder, "", "another run is writing to it", "wait for it") from error
        _check_resumable(folder, recipe)
        for left in folder.glob(f"{_TEMPORARY}*"):
            left.unlink()
        yield
    finally:
        os.close(handle)


def _check_resumable(folder: Path, recipe: ShardRecipe) -> None:
    if (folder / INDEX).exists():
        raise DataError.at(folder, "", "holds finished footage", "choose another folder, or delete it first")
    if (folder / _STARTED).is_file():
        started = read_json(folder / _STARTED, dict)
        wanted = asdict(recipe)
        if changed := {name: started.get(name) for name in wanted if started.get(name) != wanted[name]}:
            problem = f"was begun with {changed}, this run asks for { ({name: wanted[name] for name in changed}) }"
            raise DataError.at(folder, "", problem, "repeat that command, or choose another folder")
        return
    if any(not entry.name.startswith(_TEMPORARY) for entry in folder.iterdir()):
        raise DataError.at(folder, "", "is not empty", "choose another folder")
    _write_whole(folder / _STARTED, lambda path: path.write_bytes(dump_json(asdict(recipe))))


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, and rename it when all of it is on the disk."""
    handle, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
    written = Path(name)
    try:
        write(written)
        os.fsync(handle)
        written.chmod(0o644)
        written.replace(path)
    except OSError as error:
        room = shutil.disk_usage(path.parent).free // 2**20
        problem = f"cannot be written ({error}; {room} MiB free)"
        raise DataError.at(path, "", problem, "free the disk and run the command again: it goes on") from error
    finally:
        os.close(handle)
        written.unlink(missing_ok=True)
