"""The layouts of a data set: detect which one a folder has, and read it."""

from pathlib import Path
from typing import Final, Literal

from lvad.data.frames import read_frames
from lvad.data.gt_4a_21r import LABELS, read_gt
from lvad.data.images import IMAGE_SUFFIXES, walk
from lvad.data.jsonl import SCENES, SPLIT_SCENES, read_jsonl
from lvad.data.lastframe import LASTFRAME_ACTIONS, LASTFRAME_REASONS, read_lastframe
from lvad.data.reading import SPLITS, Reading, check_exists, check_path
from lvad.data.videos import VIDEO_SUFFIXES
from lvad.errors import DataError
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.taxonomy.compatibility import check_folder_taxonomy

Layout = Literal["lastframe", "gt_4a_21r", "jsonl", "frames"]

LABEL_FILES: Final[dict[Layout, tuple[str, ...]]] = {
    "lastframe": (LASTFRAME_ACTIONS, LASTFRAME_REASONS),
    "gt_4a_21r": (LABELS,),
    "jsonl": (SCENES, SPLIT_SCENES),
}
"""The label files that identify a layout."""
_READERS: Final = {"lastframe": read_lastframe, "gt_4a_21r": read_gt}
_LINES: Final = ".jsonl"


def detect_layout(root: Path) -> Layout:
    """Detect which layout ``root`` has.

    Raises:
        DataError: if it has none or two of them, or cannot be reached; the message lists what was looked for.
    """
    check_path(root)
    if root.is_file() and root.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        return "frames"
    if root.is_file() and root.suffix.lower() == _LINES:
        return "jsonl"
    found: list[Layout] = [layout for layout in LABEL_FILES if _has_labels(root, layout)]
    if len(found) > 1:
        raise DataError.at(root, "", f"holds label files of {' and '.join(found)}", "name one with format=")
    if found:
        return found[0]
    if root.is_dir() and walk(root, IMAGE_SUFFIXES | VIDEO_SUFFIXES):
        return "frames"
    looked = ", ".join(name.format(split="{train,val,test}") for names in LABEL_FILES.values() for name in names)
    what = "does not exist" if not root.exists() else "is none of the known formats"
    raise DataError.at(root, "", f"{what} (looked for {looked}, pictures, videos)", "correct the path")


def _has_labels(root: Path, layout: Layout) -> bool:
    if layout == "jsonl" and root.is_file():
        return True
    return any((root / name.format(split=split)).is_file() for name in LABEL_FILES[layout] for split in SPLITS)


def read_source(
    root: Path,
    layout: Layout | Literal["auto"] = "auto",
    num_frames: int = 2,
    images: Path | None = None,
    fps: float = 1.0,
    video_stream: int | None = None,
    from_first: bool = False,
    taxonomy: Taxonomy = BDD_OIA,
) -> Reading:
    """Read a source as far as it can be read; faulty rows are in ``errors``.

    Args:
        root: the folder with the label files, a ``.jsonl`` file, or a folder or file of pictures or video.
        layout: what ``root`` holds; detected if "auto".
        num_frames: M, the most frames of a scene.
        images: folder of the pictures, where they do not lie beside the labels.
        fps: frames per second taken from a video.
        video_stream: which of a video's several streams, as for ``sample_video``.
        from_first: let every plain frame end a scene, so that the first scenes of a sequence have fewer than M frames.
        taxonomy: the label set.

    Raises:
        DataError: if there is nothing of that layout, ``images`` holds no picture, either cannot be reached, or the
            folder names another label set.
    """
    _check_paths(root, images)
    check_folder_taxonomy(root, taxonomy)
    layout = detect_layout(root) if layout == "auto" else layout
    if layout == "frames":
        return read_frames(root, num_frames, 1, fps, video_stream, from_first)
    _check_label_files(root, layout)
    if layout == "jsonl":
        reading = read_jsonl(root, num_frames, images, taxonomy, fps, video_stream)
    else:
        reading = _READERS[layout](root, num_frames, images, taxonomy)
    _add_split_warnings(reading)
    return reading


def _check_paths(root: Path, images: Path | None) -> None:
    for path in (root, images) if images else (root,):
        check_path(path)
    if images is not None:
        check_exists(images)
        if not walk(images, IMAGE_SUFFIXES | VIDEO_SUFFIXES):
            raise DataError.at(images, "", "holds no pictures", "correct images=")


def _check_label_files(root: Path, layout: Layout) -> None:
    check_exists(root)
    if not _has_labels(root, layout):
        looked = ", ".join(name.format(split="{train,val,test}") for name in LABEL_FILES[layout])
        raise DataError.at(root, "", f"holds none of {looked}", "correct the path, or use format=auto")


def _add_split_warnings(reading: Reading) -> None:
    present = {scene.split for scene in reading.scenes}
    if present == {""}:
        reading.warnings.append("no scene names its split: they are split by seed, every recording whole")
        return
    reading.warnings += [f"no {split} split" for split in SPLITS if split not in present]
    splits_of: dict[str, set[str]] = {}
    for scene in reading.scenes:
        splits_of.setdefault(scene.id, set()).add(scene.split)
    if shared := [scene_id for scene_id, splits in splits_of.items() if len(splits) > 1]:
        reading.warnings.append(f"{len(shared)} ids are in more than one split, first {shared[0]!r}")
