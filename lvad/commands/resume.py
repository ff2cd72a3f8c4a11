"""``lvad fit --ckpt_path last``: go on with a run that was broken off, in its own folder."""

from pathlib import Path
from typing import Any, Final, NamedTuple

from lvad.commands.checkpoint_file import read_checkpoint
from lvad.commands.run_folder import stage_root
from lvad.errors import DataError

LAST: Final = "last"
_CHECKPOINT: Final = Path("checkpoints") / "last.ckpt"


class Broken(NamedTuple):
    """A run that can go on."""

    folder: Path
    checkpoint: Path
    step: int
    """Optimizer steps done."""


def find_broken(runs: Path) -> Broken | None:
    """The run that wrote its last checkpoint latest; None where none has one.

    Args:
        runs: the folder of a stage's runs, such as ``logs/rloo``.

    Raises:
        DataError: if the checkpoint cannot be read.
    """
    found = [folder for folder in runs.glob("*") if (folder / _CHECKPOINT).exists()]
    if not found:
        return None
    folder = max(found, key=lambda run: (run / _CHECKPOINT).stat().st_mtime_ns)
    checkpoint = folder / _CHECKPOINT
    if checkpoint.is_dir():
        raise DataError.at(checkpoint, "", "is a folder of shards", "go on with it by --ckpt_path and its own name")
    remedy = "delete it to start anew, or give another one, such as best.ckpt, with --ckpt_path"
    return Broken(folder, checkpoint, read_checkpoint(checkpoint, remedy)["global_step"])


def go_on(config: Any) -> Path | None:
    """Complete a ``fit`` configuration whose ``ckpt_path`` is ``last``, in place.

    Where the configuration's logger has written no run yet, the fit starts anew: a job that a cluster starts again
    and again has one command line. TensorBoard drops what the broken run logged after its checkpoint.

    Returns:
        The run that goes on; None where the fit starts anew.

    Raises:
        DataError: for a logger without a run folder of its own.
    """
    runs = runs_of(config)
    if runs is None:
        raise DataError(
            "--ckpt_path last needs one logger with a save_dir, as the shipped configurations have, or none"
        )
    broken = find_broken(runs)
    if broken is None:
        print(f"lvad: no run to go on with in {runs}: starting anew")
        config.ckpt_path = None
        return None
    print(f"lvad: going on with {broken.folder} after {broken.step} steps")
    config.ckpt_path = str(broken.checkpoint)
    if logger := config.trainer.logger:
        number = broken.folder.name.removeprefix("version_")
        logger.init_args.version = int(number) if number.isdigit() else broken.folder.name
        logger.dict_kwargs = {**(getattr(logger, "dict_kwargs", None) or {}), "purge_step": broken.step}
    return broken.folder


def runs_of(config: Any) -> Path | None:
    """The folder of the runs of a ``fit`` configuration; None where its loggers do not name one."""
    logger = config.trainer.logger
    if logger is False:
        return stage_root(config)
    options = getattr(logger, "init_args", None)
    if options is None or not getattr(options, "save_dir", None):
        return None
    return Path(options.save_dir) / (getattr(options, "name", None) or "")
