"""The ``lastframe`` layout of BDD-OIA: 22,924 labelled last frames in one flat folder.

``{split}_25k_images_actions.json`` is COCO-like (images and annotations joined by ``id``),
``{split}_25k_images_reasons.json`` a list in another order (joined by ``file_name``), and the pictures lie in
``data/``. A synthetic set adds ``{split}_scenes.jsonl``: captions and facts.

Departures from the release's own loader:
    1. Annotations are found by their ``id``, where it takes the id as a list index.
    2. A missing picture is an error, where it leaves the row out in silence.
As in that loader, rows marked "confuse" (a fifth action) are left out; here they are counted.
"""

from pathlib import Path
from typing import Any, Final, NamedTuple

from lvad.data.images import UNREAD_IMAGE_SUFFIXES, ImageIndex, split_number
from lvad.data.jsonl_fields import Line, read_facts
from lvad.data.reading import (
    SPLITS,
    DroppedRow,
    Reading,
    is_text,
    load_json,
    read_flags,
    read_json,
    read_name,
    read_text,
)
from lvad.errors import DataError
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.types import Scene

LASTFRAME_ACTIONS: Final = "{split}_25k_images_actions.json"
LASTFRAME_REASONS: Final = "{split}_25k_images_reasons.json"
LASTFRAME_SCENES: Final = "{split}_scenes.jsonl"


class _Row(NamedTuple):
    """One labelled picture of the ``lastframe`` layout."""

    name: str
    actions: tuple[int, ...]
    """A entries, or one more."""
    reasons: tuple[int, ...]
    where: str


class _Description(NamedTuple):
    """Captions and facts of a scene of a synthetic set."""

    captions: tuple[str, ...]
    facts: dict[str, str] | None


def read_lastframe(root: Path, num_frames: int, images: Path | None = None, taxonomy: Taxonomy = BDD_OIA) -> Reading:
    """Read the ``lastframe`` layout.

    A picture ``<id>_<n>`` ends a run of siblings ``<id>_<n-1>``, ``<id>_<n-2>``, ...: the last M of the run are
    the scene's frames. A sibling with a row of its own is another clip, and ends the sequence.

    Args:
        root: folder with the label files.
        num_frames: M; scenes with fewer pictures have what there is.
        images: folder of the pictures; ``root/data`` if None.
        taxonomy: the label set, which says how many labels a row has.

    Returns:
        The scenes of every split that has a label file, with everything left out and every error.
    """
    reading = Reading("lastframe")
    index = ImageIndex.of(images or root / "data")
    reading.has_images = bool(index.files)
    rows: dict[str, list[_Row]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        with reading.collect_errors():
            rows[split] = _read_rows(root, split, reading, taxonomy)
    labelled = {row.name for split_rows in rows.values() for row in split_rows}
    for split, split_rows in rows.items():
        described = _read_descriptions(root / LASTFRAME_SCENES.format(split=split), reading)
        for row in split_rows:
            with reading.collect_errors():
                frames = _siblings(index, row.name, labelled, num_frames)
                _add_scene(reading, root, split, row, frames, described, taxonomy.num_actions)
    return reading


def _add_scene(
    reading: Reading,
    root: Path,
    split: str,
    row: _Row,
    frames: tuple[Path, ...],
    described: dict[str, _Description],
    num_actions: int,
) -> None:
    stem = _stem(row.name)
    numbered = split_number(stem)
    # Two clips of one recording may differ in the number only, so only a synthetic set's own id drops it.
    scene_id = numbered[0] if numbered and numbered[0] in described else stem
    if len(row.actions) > num_actions and row.actions[num_actions]:
        reading.drops.append(DroppedRow(scene_id, split, "confuse"))
        return
    if reading.has_images and not frames:
        path = root / LASTFRAME_ACTIONS.format(split=split)
        is_unread = Path(row.name).suffix.lower() in UNREAD_IMAGE_SUFFIXES
        problem = f"image {row.name} is {'of a format that is not read' if is_unread else 'missing'}"
        raise DataError.at(path, row.where, problem, "restore or convert it, or remove its row")
    captions, facts = described.get(scene_id, _Description((), None))
    actions = row.actions[:num_actions]
    reading.scenes.append(Scene(scene_id, frames, split, actions, row.reasons, captions, facts))


def _stem(name: str) -> str:
    suffix = Path(name).suffix
    return name[: -len(suffix)] if suffix else name


def _siblings(index: ImageIndex, name: str, labelled: set[str], num_frames: int) -> tuple[Path, ...]:
    """Find the frames of a scene, oldest first; none where the labelled picture itself is missing."""
    if name not in index.files:
        return ()
    frames = [name]
    if numbered := split_number(_stem(name)):
        for number, sibling in reversed(index.numbered[numbered[0]]):
            if number < numbered[1]:
                if sibling in labelled:
                    break
                frames.append(sibling)
    return tuple(index.root / frame for frame in reversed(frames[:num_frames]))


def _read_rows(root: Path, split: str, reading: Reading, taxonomy: Taxonomy) -> list[_Row]:
    """Read the labelled pictures of a split, each with its actions and reasons."""
    path = root / LASTFRAME_ACTIONS.format(split=split)
    reasons_path = root / LASTFRAME_REASONS.format(split=split)
    if not path.is_file() and not reasons_path.is_file():
        return []
    content = read_json(path, dict)
    images, annotations = _list_of(content, "images", path), _list_of(content, "annotations", path)
    if len(images) != len(annotations):
        problem = f"{len(images)} images but {len(annotations)} annotations"
        raise DataError.at(path, "", problem, "restore the file from its source")
    actions = _actions_by_id(annotations, path, reading, taxonomy.num_actions)
    reasons = _reasons_by_name(reasons_path, reading, taxonomy.num_reasons)
    ids: set[int] = set()
    names: set[str] = set()
    rows: list[_Row] = []
    for number, image in enumerate(images):
        where = f"images[{number}]"
        with reading.collect_errors():
            image_id = _id_of(image, path, where)
            name = read_name(image.get("file_name"), "file_name", path, where)
            if image_id in ids or name in names:
                raise DataError.at(path, where, f"duplicate id {image_id} or {name!r}", "remove one of the rows")
            ids.add(image_id)
            names.add(name)
            if image_id not in actions:
                raise DataError.at(path, where, f"no annotation has id {image_id}", "restore the annotation")
            if name not in reasons:
                problem = f"file_name {name!r} has no row in {reasons_path.name}"
                raise DataError.at(path, where, problem, "take both files from the same release")
            action, reason = actions[image_id], reasons[name]
            if action and reason:
                rows.append(_Row(name, action, reason, where))
    if surplus := sorted(reasons.keys() - names):
        problem = f"{len(surplus)} rows have no image in {path.name}, first {surplus[0]!r}"
        error = DataError.at(reasons_path, "", problem, "take both files from the same release")
        reading.errors.append(error)
    return rows


def _list_of(content: dict[str, Any], key: str, path: Path) -> list[Any]:
    value = content.get(key)
    if not isinstance(value, list):
        raise DataError.at(path, "", f"{key!r} must be a list, got {type(value).__name__}", "restore the file")
    return value


def _id_of(row: object, path: Path, where: str) -> int:
    if not isinstance(row, dict) or type(row.get("id")) is not int:
        raise DataError.at(path, where, f"expected an object with an integer id, got {row!r:.80}", "correct the row")
    return row["id"]


def _actions_by_id(
    annotations: list[Any], path: Path, reading: Reading, num_actions: int
) -> dict[int, tuple[int, ...] | None]:
    """Map ids to actions; None marks a row whose error is already in ``reading``."""
    actions: dict[int, tuple[int, ...] | None] = {}
    for number, annotation in enumerate(annotations):
        where = f"annotations[{number}]"
        with reading.collect_errors():
            image_id = _id_of(annotation, path, where)
            if image_id in actions:
                raise DataError.at(path, where, f"duplicate id {image_id}", "remove one of the rows")
            actions[image_id] = None
            category = annotation.get("category")
            actions[image_id] = read_flags(category, (num_actions, num_actions + 1), "category", path, where)
    return actions


def _reasons_by_name(path: Path, reading: Reading, num_reasons: int) -> dict[str, tuple[int, ...] | None]:
    """Map file names to reasons; None marks a row whose error is already in ``reading``."""
    reasons: dict[str, tuple[int, ...] | None] = {}
    for number, row in enumerate(read_json(path, list)):
        where = f"row {number}"
        with reading.collect_errors():
            if not isinstance(row, dict):
                raise DataError.at(path, where, f"expected an object, got {row!r:.80}", "correct the row")
            name = read_name(row.get("file_name"), "file_name", path, where)
            if name in reasons:
                raise DataError.at(path, where, f"duplicate id {name!r}", "remove one of the rows")
            reasons[name] = None
            reasons[name] = read_flags(row.get("reason"), (num_reasons,), "reason", path, where)
    return reasons


def _read_descriptions(path: Path, reading: Reading) -> dict[str, _Description]:
    """Read captions and facts of a synthetic set, by scene id; empty where the file is absent."""
    described: dict[str, _Description] = {}
    with reading.collect_errors():
        rows = read_text(path).split("\n") if path.is_file() else []
        for number, text in enumerate(rows, start=1):
            with reading.collect_errors():
                if text.strip():
                    _add_description(described, text, Line(path, number, "", path.parent))
    return described


def _add_description(described: dict[str, _Description], text: str, line: Line) -> None:
    match load_json(text, line.path, line.where):
        case {"id": str(name), "captions": list(captions), **rest} if all(map(is_text, (name, *captions))):
            if name in described:
                raise line.error(f"duplicate id {name!r}", "remove one of the rows")
            described[name] = _Description(tuple(captions), read_facts(rest.get("facts"), line, name))
        case _:
            raise line.error("expected {id: text, captions: [text], facts: {text: text}}", "draw the set again")
