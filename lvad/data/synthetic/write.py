"""Write synthetic scenes to files, in the layout of BDD-OIA's *lastframe* release.

root/
    data/<id>_<n>.jpg                          frame n of M, the oldest first; the release's file is the last
    {train,val,test}_25k_images_actions.json   {"images": [{id, file_name}], "annotations": [{id, category}]}
    {train,val,test}_25k_images_reasons.json   [{file_name, reason}], as in the release in another order
    {train,val,test}_scenes.jsonl              {id, captions, facts}, one scene per line
    synthetic.json                             the recipe: version, seed, num_frames, size_px, counts
    taxonomy.yaml                              the label set, where it is another than BDD-OIA's
"""

import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, NamedTuple

from tqdm import tqdm

from lvad.data.reading import read_json
from lvad.data.synthetic.captions import scene_captions
from lvad.data.synthetic.labels import claims_of, taxonomy_labels
from lvad.data.synthetic.rendering import render_frame
from lvad.data.synthetic.state import SceneState, draw_state, scene_facts
from lvad.data.synthetic_set import RECIPE
from lvad.taxonomy import BDD_OIA, FILE, Taxonomy, dump_taxonomy

VERSION: Final = 1
"""Version of state, picture, captions and layout; raised when the same seed gives other files."""
_JPEG_QUALITY: Final = 92
_RECORDING_SCENES: Final = 4
"""Scenes that share the first half of their id, as clips of one drive do."""
_SPLIT_OFFSET: Final = 10_000_000
"""Far more than any split's scenes: each split has its own range of indices."""


class DrawnScene(NamedTuple):
    """A synthetic scene with its id and its captions."""

    id: str
    state: SceneState
    captions: tuple[str, ...]


def draw_scene(seed: int, index: int) -> DrawnScene:
    """Draw the scene at an index of the endless series of a seed.

    Args:
        seed: seed of the series.
        index: index in the series, from 0.

    Returns:
        Its id (8 and 8 hexadecimal digits, the first 8 the recording), state and captions.
    """
    rng = random.Random(f"lvad synthetic {seed} {index}")
    state = draw_state(rng)
    return DrawnScene(
        f"{index // _RECORDING_SCENES:08x}-{seed & 0xFFFF:04x}{index % 0x10000:04x}",
        state,
        scene_captions(state, rng),
    )


def write_synthetic(
    root: Path,
    num_train: int,
    num_val: int,
    num_test: int,
    seed: int = 0,
    num_frames: int = 2,
    size_px: int = 128,
    num_workers: int = 0,
    progress: bool = True,
    taxonomy: Taxonomy = BDD_OIA,
) -> None:
    """Write a set of synthetic scenes, whole or not at all; where ``root`` holds the same set, nothing is done.

    The same arguments give the same bytes, whatever ``num_workers``.

    Args:
        root: folder of the set.
        num_train: scenes to train on.
        num_val: scenes to validate on.
        num_test: scenes to test on.
        seed: of the series of scenes; the splits never share one.
        num_frames: M consecutive frames per scene.
        size_px: height and width of a frame.
        num_workers: processes that draw (spawned, so a script needs its ``__main__`` guard); 0 draws in this process.
        progress: show a bar on standard error.
        taxonomy: the label set.

    Raises:
        ValueError: if a count is negative, ``num_frames`` or ``size_px`` is not positive, the recipe that is there
            cannot be read, or the label set speaks of what is not drawn.
        FileExistsError: if ``root`` holds anything else.
    """
    counts = {"train": num_train, "val": num_val, "test": num_test}
    _check(counts, num_frames, size_px, num_workers)
    recipe = {"version": VERSION, "seed": seed, "num_frames": num_frames, "size_px": size_px, "counts": counts}
    recipe |= _taxonomy_entry(taxonomy)
    if not _holds(root, recipe):
        _write_apart(root, recipe, taxonomy, num_workers, progress)


def _taxonomy_entry(taxonomy: Taxonomy) -> dict[str, Any]:
    """Return the recipe's entry for a label set; none for BDD-OIA, whose recipes are older than other label sets."""
    if taxonomy == BDD_OIA:
        return {}
    claims_of(taxonomy)
    return {"taxonomy": taxonomy.as_dict()}


def _write_apart(root: Path, recipe: dict[str, Any], taxonomy: Taxonomy, num_workers: int, progress: bool) -> None:
    """Write into a folder beside ``root``, then rename it."""
    root.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, so that two runs do not meet and what a killed run leaves is never taken for a set.
    scratch = Path(tempfile.mkdtemp(prefix=f".{root.name}.", suffix=".partial", dir=root.parent))
    try:
        _write_all(scratch / root.name, recipe, taxonomy, num_workers, progress)
        try:
            (scratch / root.name).rename(root)
        except OSError:
            if not _holds(root, recipe):  # else another run with the same arguments was first
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_all(root: Path, recipe: dict[str, Any], taxonomy: Taxonomy, num_workers: int, progress: bool) -> None:
    (root / "data").mkdir(parents=True)
    total = sum(recipe["counts"].values())
    if progress and not sys.stderr.isatty():  # where a bar would fill a log
        print(f"drawing {total} scenes", file=sys.stderr, flush=True)
    with tqdm(total=total, desc="drawing scenes", disable=not progress or None) as bar:
        for split, rows in _drawn(root / "data", recipe, taxonomy, num_workers):
            _write_split(root, split, _counted(rows, bar))
    if taxonomy != BDD_OIA:
        (root / FILE).write_text(dump_taxonomy(taxonomy), encoding="utf-8")
    (root / RECIPE).write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")


def _check(counts: dict[str, int], num_frames: int, size_px: int, num_workers: int) -> None:
    for split, count in counts.items():
        if not 0 <= count <= _SPLIT_OFFSET:
            raise ValueError(f"num_{split}={count}, must lie in 0 .. {_SPLIT_OFFSET}")
    for name, value, least in (
        ("num_frames", num_frames, 1),
        ("size_px", size_px, 1),
        ("num_workers", num_workers, 0),
    ):
        if value < least:
            raise ValueError(f"{name}={value}, must be at least {least}")


def _holds(root: Path, recipe: dict[str, Any]) -> bool:
    """Whether the set is there; False where the name is free or an empty folder's."""
    if not root.exists():
        return False
    file = root / RECIPE
    if file.is_file():
        found = read_json(file, dict)
        if found == recipe:
            return True
        what = f"a synthetic set of another recipe ({found!r:.300}, asked for {recipe})"
    elif root.is_dir() and not any(root.iterdir()):
        return False
    else:
        what = "other files"
    raise FileExistsError(f"{root} holds {what}; remove it or name another folder")


def _drawn(
    folder: Path, recipe: dict[str, Any], taxonomy: Taxonomy, num_workers: int
) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """Yield each split with its rows in the order of the indices, and write the frames to ``folder``."""
    draw = partial(_draw_files, folder, recipe["seed"], recipe["num_frames"], recipe["size_px"], taxonomy)
    ranges = {
        split: range(i * _SPLIT_OFFSET, i * _SPLIT_OFFSET + count)
        for i, (split, count) in enumerate(recipe["counts"].items())
    }
    if num_workers == 0:
        yield from ((split, map(draw, indices)) for split, indices in ranges.items())
        return
    with get_context("spawn").Pool(num_workers) as pool:
        for split, indices in ranges.items():
            yield split, pool.imap(draw, indices, chunksize=32)


def _draw_files(
    folder: Path, seed: int, num_frames: int, size_px: int, taxonomy: Taxonomy, index: int
) -> dict[str, Any]:
    """Write the frames of one scene, and return the rest of it as plain data."""
    scene = draw_scene(seed, index)
    for frame in range(num_frames):
        image = render_frame(scene.state, frame, num_frames, size_px)
        image.save(folder / f"{scene.id}_{frame}.jpg", quality=_JPEG_QUALITY)
    actions, reasons = taxonomy_labels(scene.state, taxonomy)
    return {
        "file_name": f"{scene.id}_{num_frames - 1}.jpg",
        "actions": list(actions),
        "reasons": list(reasons),
        "scene": {"id": scene.id, "captions": list(scene.captions), "facts": scene_facts(scene.state)},
    }


def _counted(rows: Iterator[dict[str, Any]], bar: tqdm) -> list[dict[str, Any]]:
    counted = []
    for row in rows:
        counted.append(row)
        bar.update()
    return counted


def _write_split(root: Path, split: str, rows: list[dict[str, Any]]) -> None:
    actions = {
        "images": [{"id": i, "file_name": row["file_name"]} for i, row in enumerate(rows)],
        "annotations": [{"id": i, "category": row["actions"]} for i, row in enumerate(rows)],
    }
    reasons = [{"file_name": row["file_name"], "reason": row["reasons"]} for row in rows]
    # The release's two files differ in order: a reader that pairs rows by position must fail here too.
    random.Random(split).shuffle(reasons)
    (root / f"{split}_25k_images_actions.json").write_text(json.dumps(actions) + "\n", encoding="utf-8")
    (root / f"{split}_25k_images_reasons.json").write_text(json.dumps(reasons) + "\n", encoding="utf-8")
    lines = (json.dumps(row["scene"]) + "\n" for row in rows)
    (root / f"{split}_scenes.jsonl").write_text("".join(lines), encoding="utf-8")
