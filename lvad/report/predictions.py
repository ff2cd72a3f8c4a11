"""The files of ``lvad predict``: one JSON line and one annotated picture per scene."""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from tqdm import tqdm

from lvad.errors import one_line
from lvad.report.answer_picture import draw_answer
from lvad.report.runs import write_atomically
from lvad.report.scene_pictures import annotate_frames
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.types import AnsweredScene, Batch, Prediction

ROWS = "predictions.jsonl"
PICTURES = "pictures"

_PICTURE_NAME = re.compile(r"\d+-\d{6,}(-[A-Za-z0-9_-]+)?\.png")  # what picture_name makes


class PredictionWriter(BasePredictionWriter):
    """Prints the prediction of each scene, and writes ``predictions.jsonl`` and ``pictures/``.

    Args:
        folder: where to; where earlier predictions are in it, the first of ``folder_1``, ``folder_2``, ... without any.
        pictures: draw the frames with what is said of them.
    """

    def __init__(self, folder: str = "predictions", pictures: bool = True) -> None:
        super().__init__("batch")
        self.folder = folder
        self.pictures = pictures
        self.num_written = 0
        self.written = Path(folder)
        """The folder of the latest predictions."""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose and make the folder of the predictions."""
        self.num_written = 0
        chosen = str(new_folder(Path(self.folder))) if trainer.is_global_zero else ""
        self.written = Path(trainer.strategy.broadcast(chosen))

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
        """Print each scene, append a row for it to this rank's file, and draw it."""
        # The name of a file may be no UTF-8: a part that cannot be written becomes an escape, as JSON has it.
        with self._part(trainer.global_rank).open("a", encoding="utf-8", errors="backslashreplace") as lines:
            for i, (said, frames) in enumerate(zip(prediction, batch.frames, strict=True)):
                tqdm.write(prediction_line(said))  # above a progress bar
                is_answer = isinstance(said, AnsweredScene)
                row = answer_row(said, batch.taxonomy) if is_answer else description_row(said)
                if paths := _frame_paths(trainer, batch_indices, i):
                    row["frames"] = paths
                if self.pictures:
                    row["picture"] = self._draw(said, frames, trainer.global_rank, batch.taxonomy)
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                self.num_written += 1

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the prediction rows of all ranks into one file."""
        trainer.strategy.barrier("predictions written")
        if trainer.is_global_zero:
            parts = [part for rank in range(trainer.world_size) if (part := self._part(rank)).is_file()]
            write_atomically(self.written / ROWS, "".join(part.read_text(encoding="utf-8") for part in parts))
            for part in parts:
                part.unlink()
            rank_zero_info(f"predictions: {self.written / ROWS}")

    def _draw(self, said: Prediction | AnsweredScene, frames: Tensor, rank: int, taxonomy: Taxonomy) -> str:
        path = f"{PICTURES}/{picture_name(said.id, rank, self.num_written)}.png"
        (self.written / PICTURES).mkdir(exist_ok=True)
        if isinstance(said, AnsweredScene):
            picture = draw_answer(said, frames, taxonomy)
        else:
            note = said.id if said.reward is None else f"{said.id}   reward {said.reward:.3f}"
            picture = annotate_frames(frames, [said.description, note])
        picture.save(self.written / path)
        return path

    def _part(self, rank: int) -> Path:
        return self.written / f"{ROWS}.rank{rank}"


def new_folder(folder: Path) -> Path:
    """Make a folder for predictions, or take one without any; earlier predictions stay, also those of other processes.

    Returns:
        ``folder``, or the first of ``folder_1``, ``folder_2``, ... in which there are none.
    """
    folder = folder if folder.name not in ("", "..") else folder.resolve()
    for number in itertools.count():
        chosen = folder.with_name(f"{folder.name}_{number}") if number else folder
        chosen.mkdir(parents=True, exist_ok=True)
        if _is_drawn_into(chosen):
            continue
        try:
            (chosen / ROWS).open("x", encoding="utf-8").close()
        except FileExistsError:
            continue
        return chosen
    raise AssertionError("numbers do not end")


def _is_drawn_into(folder: Path) -> bool:
    """Whether the folder has pictures of earlier predictions; pictures of other names do not count."""
    return any(_PICTURE_NAME.fullmatch(path.name) for path in folder.glob(f"{PICTURES}/*.png"))


def prediction_line(said: Prediction | AnsweredScene) -> str:
    """Write the prediction of a scene in one line."""
    if isinstance(said, AnsweredScene):
        return one_line(f"{said.id}: {' '.join(part for part in (said.description, said.text) if part)}")
    reward = "" if said.reward is None else f" (reward {said.reward:.3f})"
    return one_line(f"{said.id}: {said.description}{reward}")


def description_row(said: Prediction) -> dict[str, Any]:
    """Make a JSON object of id, description and, where a judge was asked, reward."""
    row: dict[str, Any] = {"id": said.id, "description": said.description}
    return row if said.reward is None else row | {"reward": said.reward}


def answer_row(said: AnsweredScene, taxonomy: Taxonomy = BDD_OIA) -> dict[str, Any]:
    """Make a JSON object of id, description, answer, the labels that it names, and the probability of each label."""
    row: dict[str, Any] = {"id": said.id}
    actions, reasons = taxonomy.action_names, taxonomy.reason_texts
    if said.description:
        row["description"] = said.description
    row |= {"answer": said.text, "is_valid": said.is_valid, "actions": _named(actions, said.actions)}
    row["action_probabilities"] = _probabilities(actions, said.action_probabilities)
    row["reasons"] = _named(reasons, said.reasons)
    row["reason_probabilities"] = _probabilities(reasons, said.reason_probabilities)
    return {name: value for name, value in row.items() if value != {}}


def _probabilities(names: Sequence[str], probabilities: Sequence[float]) -> dict[str, float]:
    return {name: round(p, 4) for name, p in zip(names, probabilities, strict=True)} if probabilities else {}


def _named(names: Sequence[str], flags: Sequence[int]) -> list[str]:
    return [name for name, flag in zip(names, flags, strict=True) if flag]


def _frame_paths(trainer: Trainer, batch_indices: Sequence[int] | None, i: int) -> list[str]:
    """List the files of the i-th scene of a batch, where the data set has its scenes: ids alone may repeat."""
    scenes = getattr(getattr(trainer.predict_dataloaders, "dataset", None), "scenes", None)
    return [str(path) for path in scenes[batch_indices[i]].frames] if scenes and batch_indices else []


def picture_name(scene_id: str, rank: int, index: int) -> str:
    """Make a file name that stays in its folder and is no other scene's, whatever the id.

    Args:
        scene_id: may hold slashes, dots, anything.
        rank: of the process that draws.
        index: how many scenes that process has drawn.
    """
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", scene_id)[:80].strip("_")
    return f"{rank}-{index:06d}-{safe}" if safe else f"{rank}-{index:06d}"
