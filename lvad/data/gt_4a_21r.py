"""The ``gt_4a_21r`` layout of BDD-OIA: per split one file, id -> actions and reason; 11,299 clips."""

from pathlib import Path
from typing import Any, Final

from lvad.data.images import ImageIndex
from lvad.data.reading import SPLITS, Reading, read_flags, read_json, read_name
from lvad.errors import DataError
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.types import Scene

LABELS: Final = "gt_4a_21r_{split}.json"

_SPLIT_FOLDERS: Final = {"train": ("train",), "val": ("validate", "val"), "test": ("test",)}


def read_gt(root: Path, num_frames: int, images: Path | None = None, taxonomy: Taxonomy = BDD_OIA) -> Reading:
    """Read the ``gt_4a_21r`` layout.

    The pictures of a scene are the first match of: the M last ``<id>/*``, the M last ``<id>_<n>``, ``<id>``;
    in the folder of its split (``train``, ``validate`` or ``val``, ``test``), in ``images`` itself, or in
    another split's folder (a copy that was split anew).

    Args:
        root: folder with the label files.
        num_frames: M; scenes with fewer pictures have what there is.
        images: folder of the pictures; if None the first of ``root/images``, ``root/data`` and ``root`` that
            has any.
        taxonomy: the label set, which says how many labels a row has.

    Returns:
        The scenes of every split that has a label file, with every error.
    """
    reading = Reading("gt_4a_21r")
    candidates = [images] if images else [root / "images", root / "data", root]
    index = next((found for folder in candidates if (found := ImageIndex.of(folder)).files), None)
    reading.has_images = index is not None
    for split in SPLITS:
        path = root / LABELS.format(split=split)
        with reading.collect_errors():
            rows = read_json(path, dict) if path.is_file() else {}
            for scene_id, row in rows.items():
                with reading.collect_errors():
                    scene = _scene(path, split, scene_id, row, taxonomy)
                    frames = _frames(index, path, scene)[-num_frames:] if index else ()
                    reading.scenes.append(scene._replace(frames=frames))
    return reading


def _scene(path: Path, split: str, scene_id: str, row: Any, taxonomy: Taxonomy) -> Scene:
    where = f"id {scene_id!r:.80}"
    read_name(scene_id, "id", path, where)
    if not isinstance(row, dict):
        raise DataError.at(path, where, f"expected an object, got {row!r:.80}", "correct the row")
    actions = read_flags(row.get("actions"), (taxonomy.num_actions,), "actions", path, where)
    reasons = read_flags(row.get("reason"), (taxonomy.num_reasons,), "reason", path, where)
    return Scene(scene_id, (), split, actions, reasons)


def _frames(index: ImageIndex, path: Path, scene: Scene) -> tuple[Path, ...]:
    own = _SPLIT_FOLDERS[scene.split]
    others = [folder for folders in _SPLIT_FOLDERS.values() for folder in folders if folder not in own]
    for folder in (*own, "", *others):
        name = f"{folder}/{scene.id}" if folder else scene.id
        numbered = [file for _, file in index.numbered.get(name, ())]
        single = [index.by_stem[name]] if name in index.by_stem else []
        if files := index.folders.get(name) or numbered or single:
            return tuple(index.root / file for file in files)
    problem = f"no image in {index.root} ({scene.id}.jpg, {scene.id}_<n>.jpg, {scene.id}/*.jpg)"
    raise DataError.at(path, f"id {scene.id!r}", problem, "restore it, or remove its row")
