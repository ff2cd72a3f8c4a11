"""Where a fit goes whose configuration has no logger with a folder of its own."""

from pathlib import Path
from typing import Any

from lvad.report.runs import LOGS


def stage_root(config: Any) -> Path:
    """The folder of a stage's runs where there is no logger to name it: by the class of the module.

    Args:
        config: of a ``fit``.
    """
    return Path(config.trainer.default_root_dir or LOGS) / config.model.class_path.rpartition(".")[2]


def trainer_root(config: Any, resumed: Path | None) -> dict[str, Any]:
    """What the trainer is told beside its configuration, so that a run lies where ``lvad test`` looks for it.

    Args:
        config: of a ``fit``.
        resumed: the run that goes on; None for a new one.
    """
    if config.trainer.logger is False:
        return {"default_root_dir": str(resumed or _next_version(stage_root(config)))}
    if config.trainer.logger in (None, True) and config.trainer.default_root_dir is None:
        return {"default_root_dir": str(LOGS)}  # Lightning's own logger writes below it
    return {}


def _next_version(root: Path) -> Path:
    numbers = [folder.name.removeprefix("version_") for folder in root.glob("version_*")]
    return root / f"version_{max((int(n) for n in numbers if n.isdigit()), default=-1) + 1}"
