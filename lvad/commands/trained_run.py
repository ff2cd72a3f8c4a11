"""Loading of a finished run: its module with the weights and the state of a checkpoint, and scenes to try it on."""

import logging
import tempfile
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import yaml
from lightning import LightningModule
from torch import Tensor

from lvad.commands.checkpoint_io import read_checkpoint
from lvad.commands.lightning_cli import make_cli
from lvad.commands.renamed_keys import check_keys
from lvad.commands.yaml_files import read_yaml
from lvad.data.collate import decode_scene
from lvad.data.synthetic import draw_scene, render_frame
from lvad.errors import DataError
from lvad.modules import ActionSFT, TextReader
from lvad.report.runs import CONFIG, best_checkpoint
from lvad.taxonomy import Taxonomy
from lvad.trained_weights import check_trained_weights

BEST, LAST = "best", "last"
_FIT_OPTIONS: Final = ("ckpt_path", "weights_only")  # options of the subcommand, in the file that it wrote
_NOISY_LOGGERS: Final = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")
_BUILD_ONLY: Final = (
    *("--trainer.logger", "false", "--trainer.accelerator", "cpu", "--trainer.devices", "1"),
    *("--trainer.num_nodes", "1", "--trainer.strategy", "auto", "--trainer.precision", "32-true"),
    *("--trainer.plugins", "null"),
)


class TrainedRun(NamedTuple):
    """A run with the weights of a checkpoint, on the CPU."""

    folder: Path
    module: LightningModule
    data: Any
    base: str
    """The model that the run started from, as its configuration names it."""
    checkpoint: Path
    step: int
    """Optimizer steps of the checkpoint."""


class TrialScenes(NamedTuple):
    """Scenes that a model is tried on."""

    frames: list[Tensor]
    """uint8[M, 3, H, W] per scene."""
    source: str
    """The origin of the scenes, in words."""


def load_run(folder: Path, checkpoint: str = BEST) -> TrainedRun:
    """Build the module of a run and give it the weights of a checkpoint.

    Args:
        folder: what ``lvad fit`` wrote.
        checkpoint: ``best`` (``last`` where there is no best one), ``last``, or a file.

    Raises:
        DataError: if there is no such run, or the checkpoint cannot be read or is that of another model.
        FileNotFoundError: if there is no checkpoint.
    """
    if not (folder / CONFIG).is_file():
        remedy = "give the folder of a run, such as logs/rloo/version_0"
        raise DataError.at(folder, "", f"no run here: it holds no {CONFIG}", remedy)
    path = _find_checkpoint(folder, checkpoint)
    content = read_checkpoint(path, "give another checkpoint: best, last, or a file")
    config, cli = _build(folder / CONFIG)
    module = cli.model
    _set_taxonomy(module, cli.datamodule.taxonomy)
    module.setup("test")  # a tuned CLIP remembers its start there, before other weights come
    _load(module, content, path)
    return TrainedRun(folder, module.eval(), cli.datamodule, _base_name(config), path, content["global_step"])


def load_trial_scenes(data: Any, count: int) -> TrialScenes:
    """Load ``count`` validation scenes of the run, or draw scenes where its data is not there any more."""
    try:
        with _quiet():
            data.setup("validate")
        scenes = data.scenes["val"][:count]
        if scenes:
            frames = [decode_scene(scene, data.source.num_frames, data.source.image_size_px) for scene in scenes]
            return TrialScenes(frames, "validation scenes of the run")
        reason = "the run has no validation scenes"
    except (DataError, OSError) as error:
        reason = f"the run's data cannot be read ({error})"
    print(f"lvad: {reason}: trying the model on synthetic frames")
    return TrialScenes(_synthetic_frames(data, count), "synthetic frames")


def base_model_folders(module: LightningModule) -> list[Path]:
    """List the folders of the models that a module was built from."""
    names = {getattr(part, "source", None) for part in module.modules()}
    return [Path(name) for name in sorted(name for name in names if isinstance(name, str)) if Path(name).is_dir()]


def _find_checkpoint(folder: Path, name: str) -> Path:
    if name == BEST:
        path = best_checkpoint(folder)
    elif name == LAST:
        path = folder / "checkpoints" / "last.ckpt"
    else:
        path = Path(name).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.is_dir():
        raise DataError.at(
            path,
            "",
            "is a sharded checkpoint",
            "bring it into one file first, as Lightning's guide to sharded checkpoints says",
        )
    return path


def _build(path: Path) -> tuple[dict[str, Any], Any]:
    """Read a configuration, and build its module and data without the options of a fit."""
    config = read_yaml(path)
    if not isinstance(config, dict):
        problem = f"is no configuration ({type(config).__name__} at its top)"
        raise DataError.at(path, "", problem, "restore the file that 'lvad fit' wrote")
    check_keys(config, path)
    kept = {key: value for key, value in config.items() if key not in _FIT_OPTIONS}
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        file = Path(scratch) / CONFIG
        file.write_text(yaml.safe_dump(kept), encoding="utf-8")
        try:
            return config, make_cli(["--config", str(file), *_BUILD_ONLY])
        except ArgumentError as error:
            problem = f"does not fit this lvad ({error})"
            raise DataError.at(path, "", problem, "take the lvad that wrote it, or correct the file") from error


def _base_name(config: dict[str, Any]) -> str:
    options = config["model"]["init_args"]
    part = options.get("policy") or options.get("clip") or {}
    part = part.get("init_args", part)
    return str(part.get("model", "unknown"))


def _set_taxonomy(module: LightningModule, taxonomy: Taxonomy) -> None:
    """Give the parts of a stage their label set, which a trainer would set."""
    if isinstance(module, ActionSFT):
        module.set_taxonomy(taxonomy)
    elif isinstance(module, TextReader):
        module.taxonomy = taxonomy


def _load(module: LightningModule, content: dict[str, Any], path: Path) -> None:
    """Load a checkpoint in Lightning's order: the state beside the weights (such as a fitted reader), then those."""
    check_trained_weights(content["state_dict"], module, path)
    try:
        module.on_load_checkpoint(content)
        module.load_state_dict(content["state_dict"], strict=False)
    except RuntimeError as error:  # a tensor of another kind
        remedy = "take the checkpoint and the configuration of one and the same run"
        raise DataError.at(path, "", " ".join(str(error).split())[:200], remedy) from error


def _synthetic_frames(data: Any, count: int) -> list[Tensor]:
    num_frames = data.source.num_frames
    states = [draw_scene(0, index).state for index in range(count)]
    pictures = [[np.asarray(render_frame(state, i, num_frames)) for i in range(num_frames)] for state in states]
    return [torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous() for frames in pictures]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide Lightning's messages on seed, devices and data."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
