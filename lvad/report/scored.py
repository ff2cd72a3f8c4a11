"""What a test found scene by scene, kept so that ``lvad report`` can compare runs in pairs."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from lvad.data.reading import load_json, read_text
from lvad.errors import DataError
from lvad.report.runs import write_atomically
from lvad.types import SceneScores

SCORED: Final = "scored.jsonl"
_REMEDY: Final = "test the run anew"


def write_scored(path: Path, scored: Iterable[SceneScores]) -> Path:
    """Write one row per scene, whole or not at all."""
    write_atomically(path, "".join(json.dumps(scene._asdict()) + "\n" for scene in scored))
    return path


def read_scored(path: Path) -> list[SceneScores]:
    """Read what ``write_scored`` wrote.

    Raises:
        DataError: naming file and line, if it cannot be read, holds something else, or names a scene twice.
    """
    found: dict[str, SceneScores] = {}
    for number, row in enumerate(read_text(path).splitlines(), start=1):
        scene = _scene(load_json(row, path, f"line {number}"))
        if scene is None or scene.id in found:
            problem = "is no scene with scores" if scene is None else f"names scene {scene.id!r:.80} again"
            raise DataError.at(path, f"line {number}", problem, _REMEDY)
        found[scene.id] = scene
    if not found:
        raise DataError.at(path, "", "holds no scene", _REMEDY)
    return list(found.values())


def _scene(row: Any) -> SceneScores | None:
    match row:
        case {"id": str(name), "scores": dict(scores)} if all(map(_is_pair, scores.values())):
            return SceneScores(name, {score: (float(part), float(whole)) for score, (part, whole) in scores.items()})
    return None


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(number) in (int, float) and abs(number) < math.inf for number in value)
    )
