"""The end of a test: what was found scene by scene goes into the run folder."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from lvad.ranks import gather
from lvad.report.scored import SCORED, write_scored
from lvad.types import SceneScores


class ScoredFile(Callback):
    """Writes ``scored.jsonl`` at the end of a test of a module with ``scored`` (a list of ``SceneScores``).

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
        """Gather the scores of the scenes of all ranks, and write them."""
        parts: list[list[SceneScores]] = gather(list(getattr(pl_module, "scored", [])))
        scored = {scene.id: scene for part in parts for scene in part}.values()  # a loader may repeat some
        if scored and trainer.is_global_zero and self._folder is not None:
            write_scored(self._folder / SCORED, scored)
