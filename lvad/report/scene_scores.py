"""``scored.jsonl``: the scores of every test scene, one JSON line each, which ``lvad report`` compares runs by."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from lightning import Callback, LightningModule, Trainer

from lvad.data.reading import load_json, read_text
from lvad.errors import DataError
from lvad.ranks import gather
from lvad.report.runs import write_atomically
from lvad.types import SceneScores

SCORED: Final = "scored.jsonl"
_REMEDY: Final = "test the run anew"


def write_scene_scores(path: Path, scored: Iterable[SceneScores]) -> Path:
    """Write one row per scene, the whole file or none of it."""
    write_atomically(path, "".join(json.dumps(scene._asdict()) + "\n" for scene in scored))
    return path


def read_scene_scores(path: Path) -> list[SceneScores]:
    """Read a file of ``write_scene_scores``.

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


class SceneScoresFile(Callback):
    """Callback that writes ``scored.jsonl`` after the test of a module with ``scored`` (a list of ``SceneScores``).

    Args:
        run_dir: the run folder; None takes the logger's.
    """

    def __init__(self, run_dir: str | None = None) -> None:
        self.run_dir = run_dir
        self._folder: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run folder."""
        # Here, where every rank comes by: log_dir is a broadcast, and waits for ever when rank zero asks alone.
        self._folder = Path(self.run_dir or trainer.log_dir or trainer.default_root_dir)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the scores of all ranks' scenes, and write them."""
        parts: list[list[SceneScores]] = gather(list(getattr(pl_module, "scored", [])))
        scored = {scene.id: scene for part in parts for scene in part}.values()  # a loader may repeat some
        if scored and trainer.is_global_zero and self._folder is not None:
            write_scene_scores(self._folder / SCORED, scored)


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
