"""``lvad.load``: load a run, a checkpoint, an export or a model."""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from transformers.utils import logging as transformers_logging

from lvad.api.abilities import Abilities, abilities_of_clip, abilities_of_policy, abilities_of_run
from lvad.api.predictor import Predictor
from lvad.assets import resolve_model
from lvad.commands.global_options import override_global_options
from lvad.commands.library_messages import HARMLESS_WARNINGS
from lvad.commands.trained_run import BEST, load_run
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.reading import is_text, read_json
from lvad.errors import DataError
from lvad.policy import HFPolicy
from lvad.report.runs import CONFIG
from lvad.rewards import CLIPCosine
from lvad.rewards.clip import CONFIG_FILE as CLIP_CONFIG
from lvad.rewards.reader import CONFIG as READER_CONFIG
from lvad.taxonomy import find_taxonomy
from lvad.text import Prompts

_ADAPTER_CONFIG: Final = "adapter_config.json"
_PROMPTS: Final = "prompts.json"
_HUB_CLIP: Final = "hf-hub:"
_SEEDS: Final = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
"""The environment variables in which Lightning stores the seed of a configuration."""


def load(
    source: str | os.PathLike[str],
    *,
    checkpoint: str = BEST,
    device: str | torch.device | None = None,
    safe: bool = False,
    key_hosts: Sequence[str] = (),
) -> Predictor:
    """Load a run or a model, to ask it about pictures and videos.

    The configuration of a run is code, as it is for every command of lvad: a class that it names outside lvad and its
    libraries is printed before it is imported. Checkpoints and model folders are read as tensors and plain values.

    Args:
        source: a run folder (``logs/rloo/version_0``), a checkpoint file in one, a folder that a run or ``lvad export``
            wrote (it describes, or scores where it holds a CLIP), ``embedded/NAME``, or a hub name.
        checkpoint: of a run folder: ``best`` (``last`` where there is no best one), ``last``, or a file.
        device: where to compute; None takes a GPU where there is one.
        safe: refuse a configuration that names a class outside lvad and its libraries, or sends a key anywhere.
        key_hosts: hosts that may be sent the key of a reward that asks a language model.

    Raises:
        DataError: if the source cannot be read or used; the message names it and the remedy.
        FileNotFoundError: if there is no such folder, model or checkpoint.
        ValueError: for a model whose files cannot be loaded.
    """
    name = os.fspath(source)
    if "://" in name:
        raise DataError(f"{name} is an address; download it, and give the folder or file")
    with override_global_options(safe, key_hosts), _keep_random_state():
        try:
            abilities, data = _load_abilities(name, checkpoint)
        except DataError as error:
            raise error from None  # the message says it all; its cause would add screens of the parser's text
    abilities.module.to(_device(device))
    return Predictor(name, abilities, data)


def _load_abilities(name: str, checkpoint: str) -> tuple[Abilities, BDDOIADataModule]:
    path = Path(name).expanduser()
    if path.is_file() or path.suffix == ".ckpt":
        return _from_run(_run_of(path), str(path))
    if (path / CONFIG).is_file():
        return _from_run(path, checkpoint)
    return _from_model(name)


def _run_of(checkpoint: Path) -> Path:
    """Find the run that wrote a checkpoint."""
    if not checkpoint.exists():
        raise FileNotFoundError(f"no checkpoint at {checkpoint}")
    if checkpoint.suffix != ".ckpt":
        remedy = "give a run folder, a checkpoint in one, or a model's folder"
        raise DataError.at(checkpoint, "", "is no checkpoint of lvad, whose names end with .ckpt", remedy)
    folder = checkpoint.resolve().parent.parent
    if not (folder / CONFIG).is_file():
        problem = f"there is no {CONFIG} of its run (looked for {folder / CONFIG})"
        raise DataError.at(checkpoint, "", problem, "give the run folder, and the file as checkpoint=")
    return folder


def _from_run(folder: Path, checkpoint: str) -> tuple[Abilities, BDDOIADataModule]:
    run = load_run(folder, checkpoint)
    return abilities_of_run(run.module), run.data


def _from_model(name: str) -> tuple[Abilities, BDDOIADataModule]:
    """Load a model without a run, with the default limits of the data module."""
    resolved = name if name.startswith(_HUB_CLIP) else resolve_model(name)
    folder = Path(resolved)
    for file, problem, remedy in (
        (READER_CONFIG, "a reader judges texts by labels, not by frames", "load the run folder that wrote it"),
        (_ADAPTER_CONFIG, "holds adapters without their model", "load the run folder, or export without --adapter"),
    ):
        if (folder / file).is_file():
            raise DataError.at(name, "", problem, remedy)
    is_clip = name.startswith(_HUB_CLIP) or (folder / CLIP_CONFIG).is_file()
    if folder.is_dir() and not is_clip and not (folder / "config.json").is_file():
        looked = f"holds neither {CONFIG} of a run, nor config.json or {CLIP_CONFIG} of a model"
        raise DataError.at(name, "", looked, "give a run folder, or the folder model/ in one")
    abilities = abilities_of_clip(CLIPCosine(name)) if is_clip else abilities_of_policy(_policy(name, folder))
    data = BDDOIADataModule()
    data.taxonomy = find_taxonomy(folder) or data.taxonomy
    return abilities, data


def _policy(name: str, folder: Path) -> HFPolicy:
    """Load a vision-language model with the prompts and the length that ``lvad export`` wrote beside it."""
    policy = HFPolicy(name, prompts=_prompts(folder), lora=None)
    if (most := policy.vlm.generation_config.max_new_tokens) is not None:
        policy.sampling = replace(policy.sampling, max_new_tokens=most)
    return policy


def _prompts(folder: Path) -> Prompts:
    path = folder / _PROMPTS
    if not path.is_file():
        return Prompts()
    content: dict[str, Any] = read_json(path, dict)
    if not is_text(content.get("describe")):
        raise DataError.at(path, "", "must hold the text that the model is asked as 'describe'", "export it again")
    return Prompts(describe=content["describe"])


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


@contextmanager
def _keep_random_state() -> Iterator[None]:
    """Leave random states and seeds of the process as they were: a configuration seeds everything."""
    before = {name: os.environ.get(name) for name in _SEEDS}
    try:
        with isolate_rng(), _quiet():
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide progress bars, and warnings of libraries about what is so by design."""
    had_bar, advert = transformers_logging.is_progress_bar_enabled(), logging.getLogger("bitsandbytes")
    level = advert.level
    transformers_logging.disable_progress_bar()
    advert.setLevel(logging.ERROR)  # it asks for a package that products in 4 bits could use
    try:
        with warnings.catch_warnings():
            for message in HARMLESS_WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        advert.setLevel(level)
        if had_bar:
            transformers_logging.enable_progress_bar()
