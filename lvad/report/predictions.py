"""What ``lvad predict`` leaves behind: one JSON line and one annotated picture per scene."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lvad.report.answer_picture import draw_answer
from lvad.report.figures import annotate
from lvad.report.runs import write_whole
from lvad.taxonomy import ACTIONS, REASON_TEXTS
from lvad.types import AnsweredScene, Batch, Prediction

ROWS = "predictions.jsonl"
PICTURES = "pictures"

_PICTURE_NAME = re.compile(r"\d+-\d{6,}(-[A-Za-z0-9_-]+)?\.png")  # what picture_name makes


class PredictionWriter(BasePredictionWriter):
    """Writes ``predictions.jsonl`` and ``pictures/`` while predictions come in.

    Args:
        folder: where to; what an earlier call wrote there is replaced, other files stay.
        pictures: draw the frames with what is said of them.
    """

    def __init__(self, folder: str = "predictions", pictures: bool = True) -> None:
        super().__init__("batch")
        self.folder = Path(folder)
        self.pictures = pictures
        self.num_written = 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear what an earlier call wrote."""
        self.num_written = 0
        if trainer.is_global_zero:
            # By name: the folder may be somebody's own, with pictures of theirs.
            pictures = [p for p in self.folder.glob(f"{PICTURES}/*.png") if _PICTURE_NAME.fullmatch(p.name)]
            for old in [self.folder / ROWS, *self.folder.glob(f"{ROWS}.rank*"), *pictures]:
                old.unlink(missing_ok=True)
            self.folder.mkdir(parents=True, exist_ok=True)
        trainer.strategy.barrier("predictions cleared")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: list[Prediction] | list[AnsweredScene],
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Append a row per scene to this rank's file, and draw it."""
        # The name of a file may be no UTF-8: a part that cannot be written becomes an escape, as JSON has it.
        with self._part(trainer.global_rank).open("a", encoding="utf-8", errors="backslashreplace") as lines:
            for i, (said, frames) in enumerate(zip(prediction, batch.frames, strict=True)):
                row = answer_row(said) if isinstance(said, AnsweredScene) else description_row(said)
                if paths := _frame_paths(trainer, batch_indices, i):
                    row["frames"] = paths
                if self.pictures:
                    row["picture"] = self._draw(said, frames, trainer.global_rank)
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                self.num_written += 1

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the ranks' rows."""
        trainer.strategy.barrier("predictions written")
        if trainer.is_global_zero:
            parts = [part for rank in range(trainer.world_size) if (part := self._part(rank)).is_file()]
            write_whole(self.folder / ROWS, "".join(part.read_text(encoding="utf-8") for part in parts))
            for part in parts:
                part.unlink()
            rank_zero_info(f"predictions: {self.folder / ROWS}")

    def _draw(self, said: Prediction | AnsweredScene, frames: Tensor, rank: int) -> str:
        path = f"{PICTURES}/{picture_name(said.id, rank, self.num_written)}.png"
        (self.folder / PICTURES).mkdir(exist_ok=True)
        if isinstance(said, AnsweredScene):
            picture = draw_answer(said, frames)
        else:
            note = said.id if said.reward is None else f"{said.id}   reward {said.reward:.3f}"
            picture = annotate(frames, [said.description, note])
        picture.save(self.folder / path)
        return path

    def _part(self, rank: int) -> Path:
        return self.folder / f"{ROWS}.rank{rank}"


def description_row(said: Prediction) -> dict[str, Any]:
    """One JSON object: id, description and, where a judge was asked, reward."""
    row: dict[str, Any] = {"id": said.id, "description": said.description}
    return row if said.reward is None else row | {"reward": said.reward}


def answer_row(said: AnsweredScene) -> dict[str, Any]:
    """One JSON object: id, description, answer, what it names, and the probability of everything it could name."""
    row: dict[str, Any] = {"id": said.id}
    if said.description:
        row["description"] = said.description
    row |= {"answer": said.text, "is_valid": said.is_valid, "actions": _named(ACTIONS, said.actions)}
    row["action_probabilities"] = _chances(ACTIONS, said.action_probabilities)
    row["reasons"] = _named(REASON_TEXTS, said.reasons)
    row["reason_probabilities"] = _chances(REASON_TEXTS, said.reason_probabilities)
    return {name: value for name, value in row.items() if value != {}}


def _chances(names: Sequence[str], chances: Sequence[float]) -> dict[str, float]:
    return {name: round(p, 4) for name, p in zip(names, chances, strict=True)} if chances else {}


def _named(names: Sequence[str], flags: Sequence[int]) -> list[str]:
    return [name for name, flag in zip(names, flags, strict=True) if flag]


def _frame_paths(trainer: Trainer, batch_indices: Sequence[int] | None, i: int) -> list[str]:
    """The files of the i-th scene of a batch, where the data set tells its scenes: ids alone may repeat."""
    scenes = getattr(getattr(trainer.predict_dataloaders, "dataset", None), "scenes", None)
    return [str(path) for path in scenes[batch_indices[i]].frames] if scenes and batch_indices else []


def picture_name(scene_id: str, rank: int, index: int) -> str:
    """A file name that stays in its folder and is no other scene's, whatever the id.

    Args:
        scene_id: may hold slashes, dots, anything.
        rank: of the process that draws.
        index: how many scenes that process has drawn.
    """
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", scene_id)[:80].strip("_")
    return f"{rank}-{index:06d}-{safe}" if safe else f"{rank}-{index:06d}"
