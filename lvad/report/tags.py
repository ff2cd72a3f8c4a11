"""The names of metrics in TensorBoard, which sorts its groups of cards by name and opens on the first ones."""

from typing import Final

FIRST: Final = ("curves", "reward", "samples", "test", "val")
"""Groups that keep their names; everything else is shown under ``LAST``."""
LAST: Final = "while_training"


def tag(name: str) -> str:
    """The name of a metric in TensorBoard."""
    return name if name.partition("/")[0] in FIRST else f"{LAST}/{name.replace('/', '_')}"
