"""The TensorBoard logger, whose cards stand in a useful order: results first, diagnostics of training last.

TensorBoard sorts its groups of cards by name and opens on the first ones. ``reward``, ``samples``, ``test`` and ``val``
keep their names; everything else is shown under ``while_training``, as ``while_training/train_kl``.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from lvad.report.scene_pictures import draw_samples
from lvad.report.tensorboard_events import tag
from lvad.types import SceneSamples

_LEFT_OUT: Final = ("epoch", "hp_metric")
_AUDIT: Final = "audit/"
_METRICS: Final = ("val/reward", "val/judge", "val/fact_precision", "val/action_macro_f1", "val/auroc", "val/loss")
"""The scores that the HPARAMS tab shows beside the values, where a run logs them."""
_PARTS: Final = ("seed_everything", "trainer", "model", "data")
_OF_THE_MACHINE: Final = ("logger", "default_root_dir", "callbacks", "enable_", "profiler", "plugins", "num_workers")


class TensorBoard(TensorBoardLogger):
    """Lightning's logger with ordered cards, the audit as one text, and the configuration's values in the HPARAMS tab.

    Args:
        save_dir: folder of all stages' runs.
        name: of the stage.
        version: of the run; None takes the next ``version_<n>``.
        options: what else Lightning's logger takes.
    """

    def __init__(self, save_dir: str, name: str = "lvad", version: int | str | None = None, **options: Any) -> None:
        super().__init__(save_dir, name=name, version=version, **{"default_hp_metric": False, **options})

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log scalars under their TensorBoard names (``lvad.report.tensorboard_events.tag``)."""
        audit = {name: value for name, value in metrics.items() if name.startswith(_AUDIT)}
        if audit:
            rows = "".join(f"| {name.removeprefix(_AUDIT)} | {float(value):.2f} |\n" for name, value in audit.items())
            self.experiment.add_text("audit", f"| right text beats | share |\n|---|---|\n{rows}", step)
        shown = {tag(name): value for name, value in metrics.items() if name not in audit and name not in _LEFT_OUT}
        super().log_metrics(shown, step)

    @rank_zero_only
    def log_configuration(self, config: Mapping[str, Any]) -> None:
        """Show the configuration in the HPARAMS tab, beside the held-out scores."""
        columns = dict(hyperparameters(config))
        if columns:
            for summary in hparams(columns, dict.fromkeys(_METRICS, 0.0)):
                self.experiment.file_writer.add_summary(summary)


def hyperparameters(config: Mapping[str, Any]) -> Iterator[tuple[str, float | str | bool]]:
    """Yield the numbers, choices and classes of a configuration by their path, without the settings of the machine.

    Args:
        config: as ``config.yaml`` holds it.
    """
    for part in _PARTS:
        yield from _leaves(config.get(part), [part])


def add_images(trainer: Trainer, folder: Path, pictures: Mapping[str, np.ndarray]) -> None:
    """Log pictures uint8[H, W, 3] by their names, also in a test that runs without a logger beside an earlier fit.

    Args:
        trainer: at the step that the pictures are of.
        folder: of the run, for events where there is no logger.
        pictures: by name.
    """
    found = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    with contextlib.ExitStack() as opened:
        for writer in found or [opened.enter_context(SummaryWriter(folder))]:
            for name, picture in pictures.items():
                writer.add_image(name, picture, trainer.global_step, dataformats="HWC")


def add_samples(trainer: Trainer, samples: Sequence[SceneSamples], step: int) -> None:
    """Log pictures of scenes with their completions, as they were after that many steps."""
    # Lightning counts its validation scores so; what stands at the checkpoint's own step is taken back on resuming.
    step = max(0, step - 1)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            for scene in samples:
                picture = np.asarray(draw_samples(scene))
                logger.experiment.add_image(f"samples/{scene.id}", picture, step, dataformats="HWC")


def _leaves(value: Any, path: list[str]) -> Iterator[tuple[str, float | str | bool]]:
    if path[-1].startswith(_OF_THE_MACHINE):
        return
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, path if key == "init_args" else [*path, str(key)])
    elif path[-1] == "class_path":
        yield ".".join(path[:-1]), str(value).rpartition(".")[2]
    elif isinstance(value, int | float | str):
        yield ".".join(path), value
