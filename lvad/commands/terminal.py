"""What the libraries say on the terminal, brought to what helps whoever runs lvad."""

import logging
import sys
import warnings
from typing import Any, Final

from lightning.pytorch.callbacks import ProgressBar
from transformers.utils import logging as transformers_logging

from lvad.commands.flags import FLAGS
from lvad.report.progress import Bar, PlainLines

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
_TALKATIVE: Final = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
)
# Adverts, and what checkpoint_file decides.
_OF_NO_USE: Final = ("\U0001f4a1 Tip: ", "`weights_only` was not set")


def quieten() -> None:
    """Leave out what is true by design and what advertises; a warning is one line without a line of source."""
    for message in HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message)
    transformers_logging.disable_progress_bar()
    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        if _is_of_use not in logger.filters:
            logger.addFilter(_is_of_use)
    if not FLAGS.debug:
        warnings.formatwarning = _line


def progress_bar() -> ProgressBar:
    """A bar where it can move, lines where it cannot."""
    return Bar() if sys.stdout.isatty() else PlainLines()


def _is_of_use(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_OF_NO_USE)


def _line(message: Warning | str, *where: Any, **more: Any) -> str:
    return f"lvad: warning: {' '.join(str(message).split())}\n"
