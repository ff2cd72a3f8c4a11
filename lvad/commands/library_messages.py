"""Filters for the warnings and log messages of libraries that are expected by design, or that advertise."""

import logging
import warnings
from typing import Any, Final

from transformers.utils import logging as transformers_logging

from lvad.commands.global_options import GLOBAL_OPTIONS

# Said by the libraries at every start, true by design here, and of no use to whoever runs lvad.
HARMLESS_WARNINGS: Final = (
    r".*module\(s\) in eval mode at the start of training",  # the frozen reward
    r".*does not have many workers",
    r".*isinstance\(treespec, LeafSpec\)",
    r".*is_gradient_checkpointing. is deprecated",
    r".*gradient_checkpointing_enable. is deprecated",
    r"LightningCLI's args parameter is intended",
    r"The dirpath has changed from",  # a checkpoint is evaluated from another folder than it was written to
)
_NOISY_LOGGERS: Final = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
)
# Adverts, and what checkpoint_io decides.
_IGNORED_MESSAGES: Final = ("\U0001f4a1 Tip: ", "`weights_only` was not set")


def filter_library_messages() -> None:
    """Hide expected warnings and advertisements, and print other warnings in one line without the source line."""
    for message in HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message)
    transformers_logging.disable_progress_bar()
    for name in _NOISY_LOGGERS:
        logger = logging.getLogger(name)
        if _is_relevant not in logger.filters:
            logger.addFilter(_is_relevant)
    if not GLOBAL_OPTIONS.debug:
        warnings.formatwarning = _format_warning


def _is_relevant(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_IGNORED_MESSAGES)


def _format_warning(message: Warning | str, *where: Any, **more: Any) -> str:
    return f"lvad: warning: {' '.join(str(message).split())}\n"
