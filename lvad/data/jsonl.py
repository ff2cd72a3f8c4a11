"""People's own scenes: a JSON object per line of ``scenes.jsonl``, or of one file per split.

    {"id": "a", "frames": ["a_0.jpg", "a_1.jpg"], "split": "train", "actions": ["stop"], "reasons": ["traffic sign"]}
    {"id": "b", "video": "b.mp4", "start_s": 1.0, "end_s": 5.0, "text": "The car stops because the light is red."}

Lines in the chat form of ms-swift and LLaMA-Factory (``lvad.data.chat``) may stand in the same file.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lvad.data.chat import CHAT_KEYS, from_chat, is_chat
from lvad.data.images import IMAGE_SUFFIXES
from lvad.data.lines import Line, name_of
from lvad.data.recordings import recording
from lvad.data.records import SPLITS, Reading, is_text, load_json, plain_file, read_name, read_text
from lvad.data.spans import SPAN_KEYS, Span, read_span
from lvad.facts import ATTRIBUTES
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.types import Scene, VideoFrame

SCENES: Final = "scenes.jsonl"
SPLIT_SCENES: Final = "{split}.jsonl"
KEYS: Final = ("id", "frames", *SPAN_KEYS, "split", "recording", "actions", "reasons", "text", "facts")


@dataclass(frozen=True)
class _Choice:
    """What is taken of a line."""

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
        images: what the paths of frames and videos are relative to; the folder of the file if None.
        taxonomy: the names that labels may have.
        fps: frames per second taken from a video, the last of them at the end of the span.
        video_stream: as for ``sample_video``.

    Returns:
        The scenes in the order of the lines, with every error. Lines without ``split`` train where others name one;
        where none does the scenes have split ``""``.
    """
    reading = Reading("jsonl")
    choice = _Choice(num_frames, fps, video_stream, taxonomy)
    found: list[tuple[Line, Scene]] = []
    seen: set[tuple[str, str]] = set()
    for path, split in _files(root):
        with reading.gather():
            for number, text in enumerate(read_text(path).split("\n"), start=1):
                line = Line(path, number, split, images or path.parent)
                with reading.gather():
                    if text.strip():
                        scene = _scene(load_json(text, path, line.where), line, choice)
                        if (scene.split, scene.id) in seen:
                            remedy = "remove one of the lines, or give each an id of its own"
                            raise line.error(f"duplicate id {scene.id!r:.80}", remedy)
                        seen.add((scene.split, scene.id))
                        found.append((line, scene))
    reading.has_images = any(scene.frames for _, scene in found)
    for line, scene in found:
        with reading.gather():
            if reading.has_images:
                _check_frames(scene, line)
            reading.scenes.append(scene)
    _fill_splits(reading)
    return reading


def _files(root: Path) -> list[tuple[Path, str]]:
    """The files with the split of each."""
    if root.is_file():
        return [(root, "")]
    named = [(root / SPLIT_SCENES.format(split=split), split) for split in SPLITS]
    return [(path, split) for path, split in [(root / SCENES, ""), *named] if path.is_file()]


def _fill_splits(reading: Reading) -> None:
    """Let lines without a split train where others name one."""
    open_ones = [i for i, scene in enumerate(reading.scenes) if not scene.split]
    if open_ones and len(open_ones) < len(reading.scenes):
        for i in open_ones:
            reading.scenes[i] = reading.scenes[i]._replace(split="train")
        reading.warnings.append(f"{len(open_ones)} lines without a split train, as others name one")


def _scene(row: Any, line: Line, choice: _Choice) -> Scene:
    row = _checked(row, line, choice.taxonomy)
    span = read_span(row, line, choice.video_stream) if "video" in row else None
    frames = _frames(row, line)[-choice.num_frames :]
    name = span.name if span else name_of(row["frames"][-1]) if frames else None
    scene_id = read_name(row.get("id", name), "id", line.path, line.where)
    drive = read_name(row["recording"], "recording", line.path, line.where) if "recording" in row else ""
    return Scene(
        scene_id,
        frames if span is None else span.frames(choice.num_frames, choice.fps),
        _split(row, line),
        *_labels(row, line, choice.taxonomy),
        _texts(row, line),
        _facts(row, line, scene_id),
        recording=drive or (_drive_of(span) if span else ""),
    )


def _checked(row: Any, line: Line, taxonomy: Taxonomy) -> dict[str, Any]:
    """A line in lvad's own form, whose keys are known."""
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
    """The pictures of a line; none where it has a video."""
    frames = row.get("frames", [] if "video" in row else None)
    if not isinstance(frames, list) or not all(is_text(frame) and frame for frame in frames):
        raise line.error(f"frames must be a list of paths, got {frames!r:.80}")
    return tuple(line.folder / frame for frame in frames)


def _drive_of(span: Span) -> str:
    """Spans of one video are of one recording, and BDD100K's videos may be cut from the same."""
    return recording(span.video.stem) or name_of(span.path)


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


def _labels(
    row: Mapping[str, Any], line: Line, taxonomy: Taxonomy
) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    given = [key for key in ("actions", "reasons") if key in row]
    if not given:
        return None, None
    if len(given) == 1:
        other = "reasons" if given == ["actions"] else "actions"
        remedy = "give both, an empty list where none holds, or neither for a scene without labels"
        raise line.error(f"has {given[0]} but no {other}", remedy)
    actions = dict(taxonomy.action_index)
    actions |= {alias: actions[name] for alias, name in taxonomy.action_aliases.items()}
    reasons = dict(taxonomy.reason_index) | {text: i for i, text in enumerate(taxonomy.reason_texts)}
    return (
        _flags(row["actions"], "action", actions, taxonomy.action_names, line, taxonomy),
        _flags(row["reasons"], "reason", reasons, taxonomy.reason_texts, line, taxonomy),
    )


def _flags(
    value: object, what: str, index: Mapping[str, int], names: tuple[str, ...], line: Line, taxonomy: Taxonomy
) -> tuple[int, ...]:
    """Zeros and ones for a list of names; case and spacing are free, as in answers."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise line.error(f"{what}s must be a list of names, got {value!r:.80}")
    flags = [0] * len(names)
    for name in value:
        i = index.get(name, index.get(" ".join(name.lower().split())))
        if i is None:
            close = difflib.get_close_matches(name.lower(), index, 1)
            nearest = names[index[close[0]]] if close else None
            remedy = f"write {nearest!r}" if nearest else f"write one of {', '.join(map(repr, names))}"
            problem = f"unknown {what} {name!r:.80} in the label set {taxonomy.name!r}"
            raise line.error(problem, f"{remedy}, or give the label set that has it as taxonomy")
        if flags[i]:
            raise line.error(f"{what} {names[i]!r} is named twice")
        flags[i] = 1
    return tuple(flags)


def _texts(row: Mapping[str, Any], line: Line) -> tuple[str, ...]:
    value = row.get("text", [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(is_text(text) and text.strip() for text in texts):
        raise line.error(f"text must be a text or a list of texts, none of them empty, got {value!r:.80}")
    return tuple(text.strip() for text in texts)


def _facts(row: Mapping[str, Any], line: Line, scene_id: str) -> dict[str, str] | None:
    facts = row.get("facts")
    if facts is None:
        return None
    if not isinstance(facts, dict) or not all(is_text(text) for text in (*facts, *facts.values())):
        raise line.error(f"facts must be an object of texts, got {facts!r:.80}")
    for attribute, value in facts.items():
        if attribute not in ATTRIBUTES:
            raise line.unknown("attribute of facts", attribute, ATTRIBUTES)
        if value not in ATTRIBUTES[attribute]:
            raise line.unknown(f"value of {attribute!r} in facts", value, ATTRIBUTES[attribute])
    if lacking := [attribute for attribute in ATTRIBUTES if attribute not in facts]:
        # A description that is held against them may speak of any.
        problem = f"facts of scene {scene_id!r:.80} lack {', '.join(map(repr, lacking))}"
        raise line.error(problem, "name every attribute of lvad.facts.ATTRIBUTES, or leave facts out")
    return facts
