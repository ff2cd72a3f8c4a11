"""Exchange between the processes (ranks) of one run: gathered rows, means, and errors that end all ranks."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, Generic, ParamSpec, TypeVar, cast

import torch
from lightning import LightningModule
from torch import Tensor
from torch import distributed as dist

from lvad.errors import OtherRankFailed
from lvad.types import Batch, Reward, Rollouts, Scores

P = ParamSpec("P")
T = TypeVar("T")
Row = TypeVar("Row")


def num_ranks() -> int:
    """Return the number of processes that train or evaluate together; 1 without distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(value: T) -> list[T]:
    """Gather a value of every rank, rank 0's first; all ranks must call this."""
    if num_ranks() == 1:
        return [value]
    parts: list[Any] = [None] * num_ranks()
    dist.all_gather_object(parts, value)
    return parts


class SceneRows(Generic[Row]):
    """Collects one row per scene, by its id, on this rank, and gathers the rows of all ranks.

    Rows are plain values or tensors on the CPU, so that they can be sent to other processes.
    """

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    def add(self, ids: Iterable[str], rows: Iterable[Row]) -> None:
        """Add a row per scene; the first row of a repeated scene stays."""
        for name, row in zip(ids, rows, strict=True):
            self._rows.setdefault(name, row)

    def gathered(self) -> list[Row]:
        """Gather the rows of all ranks, one for each scene; all ranks must call this.

        The ranks' rows are taken in turn, as loaders distribute the scenes, so the order is that of a single rank.
        Scenes that a loader repeats to give every rank the same number come last and drop out.
        """
        turns = itertools.zip_longest(*(rows.items() for rows in gather(self._rows)))
        every = SceneRows[Row]()
        for name, row in (item for turn in turns for item in turn if item is not None):
            every.add([name], [row])
        return list(every._rows.values())

    def reset(self) -> None:
        """Drop all rows."""
        self._rows.clear()


def log_gathered(module: LightningModule, values: dict[str, Tensor]) -> None:
    """Log values that every rank has computed from the scenes of all ranks.

    The ranks' values are equal, and so is the largest of them. Lightning warns of values that are logged without such
    an exchange, which may be of one rank alone: that warning is not silenced.
    """
    found = {name: value.to(module.device) for name, value in values.items()}
    module.log_dict(found, sync_dist=True, reduce_fx="max")


def mean_over_ranks(values: dict[str, Tensor], device: torch.device, skip_nan: bool = False) -> dict[str, Tensor]:
    """Average float[] values of a training step over the ranks, in one exchange; the means are on the CPU.

    Args:
        values: under the same names on all ranks.
        device: on which the ranks exchange tensors.
        skip_nan: leave out NaNs, which stand for missing values; a mean is NaN only if no rank has a value.
    """
    if num_ranks() == 1:
        return values
    rows = torch.stack([value.detach().float().cpu() for value in values.values()]).to(device)
    parts = [torch.empty_like(rows) for _ in range(num_ranks())]
    dist.all_gather(parts, rows)
    means = torch.stack(parts).nanmean(0) if skip_nan else torch.stack(parts).mean(0)
    return dict(zip(values, means.cpu(), strict=True))


def together(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a call that every rank makes at this moment; if it fails on one rank, all ranks fail with that message.

    Otherwise the other ranks would wait in their next exchange until it times out.

    Raises:
        OtherRankFailed: with the message of the first rank that failed, where this one did not.
        Exception: this rank's own.
    """
    if num_ranks() == 1:
        return call(*args, **kwargs)
    value, error = None, None
    try:
        value = call(*args, **kwargs)
    except Exception as raised:
        error = raised
    messages = gather(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for rank, message in enumerate(messages):
        if message is not None:
            raise OtherRankFailed(f"rank {rank} failed: {message}")
    return cast(T, value)


def score_together(reward: Reward, batch: Batch, rollouts: Rollouts) -> Scores:
    """Score completions on every rank at once; a reward that fails on one rank ends all of them."""
    return together(reward.score, batch, rollouts)
