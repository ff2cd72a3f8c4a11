"""The metrics in TensorBoard's event files: the names they have there, and their values read back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from lvad.errors import DataError

FIRST: Final = ("curves", "reward", "samples", "test", "val")
"""Groups that keep their names; everything else is shown under ``LAST``."""
LAST: Final = "while_training"


def tag(name: str) -> str:
    """Return the name of a metric in TensorBoard, which sorts groups of cards by name and opens on the first ones."""
    return name if name.partition("/")[0] in FIRST else f"{LAST}/{name.replace('/', '_')}"


def read_curves(run: Path, names: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """Read the logged values of a run by optimizer step; scores that it did not log are left out.

    Args:
        run: the run folder; one without events has no curves.
        names: of the scores.

    Raises:
        DataError: if its events cannot be read.
    """
    if not list(run.glob("events.out.tfevents.*")):
        return {}
    events = EventAccumulator(str(run), size_guidance={SCALARS: 2000})
    try:
        events.Reload()
        logged = events.Tags()["scalars"]
        # By their own names in the events of other loggers than lvad's.
        found = {name: next((key for key in (tag(name), name) if key in logged), None) for name in names}
        return {name: [(e.step, e.value) for e in events.Scalars(key)] for name, key in found.items() if key}
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        problem = f"its TensorBoard events cannot be read ({error})"
        raise DataError.at(run, "", problem, "move the events away to compare without curves") from error
