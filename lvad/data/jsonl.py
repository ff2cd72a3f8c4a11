"""Read a user's own scenes: one JSON object per line of ``scenes.jsonl``, or of one file per split.

    {"id": "a", "frames": ["a_0.jpg", "a_1.jpg"], "split": "train", "actions": ["stop"], "reasons": ["traffic sign"]}
    {"id": "b", "video": "b.mp4", "start_s": 1.0, "end_s": 5.0, "text": "The car stops because the light is red."}

Lines in the chat form of ms-swift and LLaMA-Factory (``lvad.data.chat_format``) may stand in the same file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lvad.data.chat_format import CHAT_KEYS, from_chat, is_chat
from lvad.data.images import IMAGE_SUFFIXES
from lvad.data.jsonl_fields import SPAN_KEYS, Line, Span, id_of_path, read_facts, read_labels, read_span, read_texts
from lvad.data.reading import SPLITS, Reading, is_text, load_json, plain_file, read_name, read_text
from lvad.data.recordings import recording_of_id
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.types import Scene, VideoFrame

SCENES: Final = "scenes.jsonl"
SPLIT_SCENES: Final = "{split}.jsonl"
WITHOUT_SPLIT: Final = "train"
"""The split of lines that name none, where others do."""
KEYS: Final = ("id", "frames", *SPAN_KEYS, "split", "recording", "actions", "reasons", "text", "facts")


@dataclass(frozen=True)
class _Options:
    """How the rows are read; see the arguments of ``read_jsonl``."""

    num_frames: int
    fps: float
    video_stream: int | None
    taxonomy: Taxonomy


def read_jsonl(
    root: Path,
    num_frames: int,
    images: Path | None = None,
    taxonomy: Taxonomy = BDD_OIA,
    fps: float = 1.0,
    video_stream: int | None = None,
) -> Reading:
    """Read scenes from lines of JSON.

    Args:
        root: a ``.jsonl`` file, or a folder with ``scenes.jsonl`` or one file per split.
        num_frames: M; of more frames the last M are used.
        images: folder that the paths of frames and videos are relative to; the folder of the file if None.
        taxonomy: the names that labels may have.
        fps: frames per second taken from a video, the last of them at the end of the span.
        video_stream: as for ``sample_video``.

    Returns:
        The scenes in the order of the lines, with every error. Lines without ``split`` are training scenes where other
        lines name a split; where no line does, all scenes have the split ``""``.
    """
    reading = Reading("jsonl")
    options = _Options(num_frames, fps, video_stream, taxonomy)
    found: dict[tuple[str, str], tuple[Line, Scene]] = {}
    for path, split in _files(root):
        with reading.collect_errors():
            for number, text in enumerate(read_text(path).split("\n"), start=1):
                with reading.collect_errors():
                    if text.strip():
                        _add_scene(found, text, Line(path, number, split, images or path.parent), options)
    reading.has_images = any(scene.frames for _, scene in found.values())
    for line, scene in found.values():
        with reading.collect_errors():
            if reading.has_images:
                _check_frames(scene, line)
            reading.scenes.append(scene)
    _fill_splits(reading)
    return reading


def _add_scene(found: dict[tuple[str, str], tuple[Line, Scene]], text: str, line: Line, options: _Options) -> None:
    """Add the scene of a line; an id may occur once in a split, over all files."""
    scene = _scene(load_json(text, line.path, line.where), line, options)
    key = scene.split or WITHOUT_SPLIT, scene.id
    if key in found:
        raise line.error(f"duplicate id {scene.id!r:.80}", "remove one of the lines, or give each an id of its own")
    found[key] = line, scene


def _files(root: Path) -> list[tuple[Path, str]]:
    """List the files with the split of each; the split is empty where the lines name it."""
    if root.is_file():
        return [(root, "")]
    named = [(root / SPLIT_SCENES.format(split=split), split) for split in SPLITS]
    return [(path, split) for path, split in [(root / SCENES, ""), *named] if path.is_file()]


def _fill_splits(reading: Reading) -> None:
    """Make scenes without a split training scenes, where others name one."""
    open_ones = [i for i, scene in enumerate(reading.scenes) if not scene.split]
    if open_ones and len(open_ones) < len(reading.scenes):
        for i in open_ones:
            reading.scenes[i] = reading.scenes[i]._replace(split=WITHOUT_SPLIT)
        reading.warnings.append(f"{len(open_ones)} lines without a split {WITHOUT_SPLIT}, as others name one")


def _scene(row: Any, line: Line, options: _Options) -> Scene:
    row = _own_form(row, line, options.taxonomy)
    span = read_span(row, line, options.video_stream) if "video" in row else None
    frames = _frames(row, line)[-options.num_frames :]
    name = span.name if span else id_of_path(row["frames"][-1]) if frames else None
    scene_id = read_name(row.get("id", name), "id", line.path, line.where)
    recording = read_name(row["recording"], "recording", line.path, line.where) if "recording" in row else ""
    return Scene(
        scene_id,
        frames if span is None else span.frames(options.num_frames, options.fps),
        _split(row, line),
        *read_labels(row, line, options.taxonomy),
        read_texts(row, line),
        read_facts(row.get("facts"), line, scene_id),
        recording=recording or (_recording_of_span(span) if span else ""),
    )


def _own_form(row: Any, line: Line, taxonomy: Taxonomy) -> dict[str, Any]:
    """Return the row in lvad's own form; unknown keys are refused."""
    if not isinstance(row, dict):
        raise line.error(f"expected an object, got {row!r:.80}")
    allowed = ("id", "split", "recording", *CHAT_KEYS) if is_chat(row) else KEYS
    for key in row:
        if key not in allowed:
            raise line.unknown("key", key, allowed)
    if is_chat(row):
        return from_chat(row, line.path, line.where, taxonomy)
    if "video" in row and "frames" in row:
        raise line.error("has frames and a video", "give one of them")
    if spare := [key for key in SPAN_KEYS if key in row and "video" not in row]:
        raise line.error(f"has {spare[0]} but no video", "give the video, or leave it out")
    return row


def _frames(row: Mapping[str, Any], line: Line) -> tuple[Path, ...]:
    """Return the pictures of a line; none where it has a video."""
    frames = row.get("frames", [] if "video" in row else None)
    if not isinstance(frames, list) or not all(is_text(frame) and frame for frame in frames):
        raise line.error(f"frames must be a list of paths, got {frames!r:.80}")
    return tuple(line.folder / frame for frame in frames)


def _recording_of_span(span: Span) -> str:
    """Return the recording of a span: its video, or the drive that several videos of BDD100K were cut from."""
    return recording_of_id(span.video.stem) or id_of_path(span.path)


def _check_frames(scene: Scene, line: Line) -> None:
    if not scene.frames:
        raise line.error("names no frames", "list the pictures of the scene, the oldest first")
    for frame in scene.frames:
        if isinstance(frame, VideoFrame):
            continue  # looked over with its span
        if frame.suffix.lower() not in IMAGE_SUFFIXES:
            wanted = ", ".join(sorted(IMAGE_SUFFIXES))
            raise line.error(f"frame {str(frame)!r} is of a format that is not read", f"convert it to one of {wanted}")
        try:
            plain_file(frame)
        except (OSError, ValueError) as error:
            remedy = "restore it, correct its path, or remove the line"
            raise line.error(f"frame {str(frame)!r} is missing", remedy) from error


def _split(row: Mapping[str, Any], line: Line) -> str:
    split = row.get("split", line.split)
    if "split" in row and split not in SPLITS:
        raise line.unknown("split", split, SPLITS)
    if line.split and split != line.split:
        problem = f"split {split!r} in the file of split {line.split!r}"
        raise line.error(problem, "move the line to the file of its split, or leave split out")
    return split
