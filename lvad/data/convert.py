"""Convert labelled scenes of any layout to lines of JSON, the form of a user's own scenes (``lvad.data.jsonl``)."""

import json
import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal

from lvad.data.bddx import TABLE_SUFFIX, convert_bddx
from lvad.data.jsonl import read_jsonl
from lvad.data.layouts import Layout, read_source
from lvad.data.reading import DroppedRow, Reading
from lvad.data.split_algorithms import is_labelled
from lvad.errors import DataError
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.types import Scene, VideoFrame


def convert_to_jsonl(
    source: Path,
    out: Path,
    layout: Layout | Literal["auto", "bddx"] = "auto",
    images: Path | None = None,
    num_frames: int = 2,
    taxonomy: Taxonomy = BDD_OIA,
) -> Reading:
    """Write a source's scenes to one file, which reads as the same scenes.

    Args:
        source: the folder with the label files, a ``.jsonl`` file, or BDD-X's ``.csv``.
        out: the file to write; paths of frames are relative to its folder. Labels without pictures give scenes
            without frames.
        layout: what ``source`` holds; found out if "auto".
        images: folder of the pictures, where they do not lie beside the labels; for BDD-X the folder of the videos,
            where that is not ``videos`` beside its table.
        num_frames: M, the most frames of a scene; spans of BDD-X's videos are kept whole.
        taxonomy: the label set.

    Returns:
        The scenes that were read.

    Raises:
        DataError: if ``out`` exists or is no ``.jsonl``, a row of the source cannot be used, or it has no labels.
        OSError: if ``out`` cannot be written.
    """
    _check_output(out)
    relative = _relative_to(out.parent)
    if layout == "bddx" or (layout == "auto" and source.suffix == TABLE_SUFFIX):
        rows, drops = convert_bddx(source, images or source.parent / "videos", relative)
        return _write_bddx(out, rows, drops, num_frames, taxonomy)
    reading = read_source(source, layout, num_frames, images, taxonomy=taxonomy).require()
    if not any(is_labelled(reading.scenes)):
        raise DataError.at(source, "", "has no labels to convert", "give a folder with label files")
    _write(out, (_row(scene, relative, taxonomy) for scene in reading.scenes))
    return reading


def _write_bddx(
    out: Path, rows: list[dict[str, Any]], drops: list[DroppedRow], num_frames: int, taxonomy: Taxonomy
) -> Reading:
    """Write the rows and read them back: only the reader knows the frames of a span."""
    _write(out, rows)
    reading = read_jsonl(out, num_frames, taxonomy=taxonomy).require()
    reading.drops = drops
    return reading


def _check_output(out: Path) -> None:
    if out.suffix != ".jsonl":
        raise DataError.at(out, "", "is no .jsonl file", "give a name that ends in .jsonl")
    if out.exists():
        raise DataError.at(out, "", "exists already", "name another file, or remove it")


def _write(out: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write all lines under another name, then rename the file, so that it is whole or absent."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    partial.rename(out)


def _row(scene: Scene, relative: Callable[[Path], str], taxonomy: Taxonomy) -> dict[str, Any]:
    row: dict[str, Any] = {"id": scene.id}
    video_frames = [frame for frame in scene.frames if isinstance(frame, VideoFrame)]
    if video_frames:
        first, last = video_frames[0], video_frames[-1]
        row |= {"video": relative(first.video), "start_s": first.time_s, "end_s": last.time_s}
    else:
        row["frames"] = [relative(frame) for frame in scene.frames if isinstance(frame, Path)]
    if scene.split:
        row["split"] = scene.split
    if scene.recording:
        row["recording"] = scene.recording
    if scene.actions is not None and scene.reasons is not None:
        row["actions"] = [name for name, flag in zip(taxonomy.action_names, scene.actions, strict=True) if flag]
        row["reasons"] = [key for key, flag in zip(taxonomy.reason_keys, scene.reasons, strict=True) if flag]
    if scene.captions:
        row["text"] = scene.captions[0] if len(scene.captions) == 1 else list(scene.captions)
    if scene.facts is not None:
        row["facts"] = dict(scene.facts)
    return row


def _relative_to(folder: Path) -> Callable[[Path], str]:
    """Make a function that gives the path of a file relative to a folder, with the links of both resolved."""
    start = folder.resolve()

    @cache
    def relative_parent(path: Path) -> str:
        """Return the folder of a file relative to ``folder``; links are resolved once per folder."""
        return Path(os.path.relpath(path.resolve(), start)).as_posix()

    return lambda frame: f"{relative_parent(frame.parent)}/{frame.name}".removeprefix("./")
