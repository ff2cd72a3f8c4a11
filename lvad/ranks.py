"""Several processes as one: what each of them found about its scenes is put together before a score is computed."""

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
    """Processes that train or evaluate together; 1 where none were started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(found: T) -> list[T]:
    """What every rank found, rank 0's first; all ranks must come by."""
    if num_ranks() == 1:
        return [found]
    parts: list[Any] = [None] * num_ranks()
    dist.all_gather_object(parts, found)
    return parts


class SceneRows(Generic[Row]):
    """What is known of each scene, by its id, on this rank.

    Rows are plain values or tensors on the CPU, so that they can be sent to other processes.
    """

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    def add(self, ids: Iterable[str], rows: Iterable[Row]) -> None:
        """Add a row per scene; of a scene that comes again, the first stays."""
        for name, row in zip(ids, rows, strict=True):
            self._rows.setdefault(name, row)

    def gathered(self) -> list[Row]:
        """The rows of all ranks, each scene's once; all ranks must come by.

        The ranks' rows are taken in turn, since loaders deal out the scenes so: the order is that of one rank. Scenes
        that a loader repeated, so that all ranks have as many, come last and drop out.
        """
        turns = itertools.zip_longest(*(rows.items() for rows in gather(self._rows)))
        every = SceneRows[Row]()
        for name, row in (item for turn in turns for item in turn if item is not None):
            every.add([name], [row])
        return list(every._rows.values())

    def reset(self) -> None:
        """Forget all scenes."""
        self._rows.clear()


def log_gathered(module: LightningModule, values: dict[str, Tensor]) -> None:
    """Log what every rank has computed from the scenes of all ranks.

    The ranks' values are equal, and so is the largest of them. Lightning warns of values that are logged without such
    an exchange, which may be of one rank alone: that warning is not silenced.
    """
    found = {name: value.to(module.device) for name, value in values.items()}
    module.log_dict(found, sync_dist=True, reduce_fx="max")


def mean_over_ranks(values: dict[str, Tensor], device: torch.device, skip_nan: bool = False) -> dict[str, Tensor]:
    """float[] values of a training step, as their mean over the ranks, in one exchange; on the CPU.

    Args:
        values: under the same names on all ranks.
        device: that the ranks exchange tensors of.
        skip_nan: a NaN stands for a value that a rank has not; it is NaN afterwards only where no rank has one.
    """
    if num_ranks() == 1:
        return values
    rows = torch.stack([value.detach().float().cpu() for value in values.values()]).to(device)
    parts = [torch.empty_like(rows) for _ in range(num_ranks())]
    dist.all_gather(parts, rows)
    means = torch.stack(parts).nanmean(0) if skip_nan else torch.stack(parts).mean(0)
    return dict(zip(values, means.cpu(), strict=True))


def together(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do what every rank does at this moment and may fail at; if one fails, all end, each with its message.

    Otherwise the others would wait for it in their next exchange until that times out.

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
    """A reward's scores, which every rank asks for at this moment: a judge that breaks on one ends them all."""
    return together(reward.score, batch, rollouts)
