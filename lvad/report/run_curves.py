"""What a run logged over its steps, read from its TensorBoard events."""

from collections.abc import Sequence
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from lvad.data.records import DataError


def read_curves(run: Path, names: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """The logged values of a run by optimizer step; scores that it did not log are left out.

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
        return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in names if name in logged}
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        problem = f"its TensorBoard events cannot be read ({error})"
        raise DataError.at(run, "", problem, "move the events away to compare without curves") from error
