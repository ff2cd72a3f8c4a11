"""The run folder of a fit: a new one, or that of an interrupted run (``lvad fit --ckpt_path last``)."""

from pathlib import Path
from typing import Any, Final, NamedTuple

from lvad.commands.checkpoint_io import read_checkpoint
from lvad.errors import DataError
from lvad.report.runs import LOGS

LAST: Final = "last"
_CHECKPOINT: Final = Path("checkpoints") / "last.ckpt"


class InterruptedRun(NamedTuple):
    """A run whose fit can be resumed."""

    folder: Path
    checkpoint: Path
    step: int
    """Optimizer steps done."""


def find_interrupted_run(runs: Path) -> InterruptedRun | None:
    """Find the run that wrote its last checkpoint latest; None where none has one.

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
    return InterruptedRun(folder, checkpoint, read_checkpoint(checkpoint, remedy)["global_step"])


def resume_run(config: Any) -> Path | None:
    """Complete a ``fit`` configuration whose ``ckpt_path`` is ``last``, in place.

    Where the configuration's logger has written no run yet, the fit starts anew: a job that a cluster starts again
    and again has one command line. TensorBoard drops what the interrupted run logged after its checkpoint.

    Returns:
        The run that goes on; None where the fit starts anew.

    Raises:
        DataError: for a logger without a run folder of its own.
    """
    runs = runs_folder(config)
    if runs is None:
        raise DataError(
            "--ckpt_path last needs one logger with a save_dir, as the shipped configurations have, or none"
        )
    interrupted = find_interrupted_run(runs)
    if interrupted is None:
        print(f"lvad: no run to go on with in {runs}: starting anew")
        config.ckpt_path = None
        return None
    print(f"lvad: going on with {interrupted.folder} after {interrupted.step} steps")
    config.ckpt_path = str(interrupted.checkpoint)
    if logger := config.trainer.logger:
        number = interrupted.folder.name.removeprefix("version_")
        logger.init_args.version = int(number) if number.isdigit() else interrupted.folder.name
        logger.dict_kwargs = {**(getattr(logger, "dict_kwargs", None) or {}), "purge_step": interrupted.step}
    return interrupted.folder


def runs_folder(config: Any) -> Path | None:
    """Return the folder of the runs of a ``fit`` configuration; None where its loggers do not name one."""
    logger = config.trainer.logger
    if logger is False:
        return default_runs_folder(config)
    options = getattr(logger, "init_args", None)
    if options is None or not getattr(options, "save_dir", None):
        return None
    return Path(options.save_dir) / (getattr(options, "name", None) or "")


def default_runs_folder(config: Any) -> Path:
    """Return the folder of a stage's runs where no logger names it: by the class of the module.

    Args:
        config: of a ``fit``.
    """
    return Path(config.trainer.default_root_dir or LOGS) / config.model.class_path.rpartition(".")[2]


def default_root_dir(config: Any, resumed: Path | None) -> dict[str, Any]:
    """Choose the trainer's root folder, so that a run lies where ``lvad test`` looks for it.

    Args:
        config: of a ``fit``.
        resumed: the run that goes on; None for a new one.
    """
    if config.trainer.logger is False:
        return {"default_root_dir": str(resumed or _next_version_folder(default_runs_folder(config)))}
    if config.trainer.logger in (None, True) and config.trainer.default_root_dir is None:
        return {"default_root_dir": str(LOGS)}  # Lightning's own logger writes below it
    return {}


def _next_version_folder(root: Path) -> Path:
    numbers = [folder.name.removeprefix("version_") for folder in root.glob("version_*")]
    return root / f"version_{max((int(n) for n in numbers if n.isdigit()), default=-1) + 1}"
