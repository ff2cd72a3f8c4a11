"""Loaders of scenes that are evaluated: every scene once, on whichever device."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lvad.data.collate import collate
from lvad.data.resume import ResumableLoader
from lvad.errors import DataError
from lvad.taxonomy import Taxonomy
from lvad.types import Batch


class EvenBatches(DistributedSampler[list[int]]):
    """Batches of scenes in order, dealt out to devices: equally many on each, and no scene twice.

    Lightning's own sampler repeats scenes until every device has as many, and scores count them twice. Here devices
    differ by a scene at most, and those with more have one larger batch: a device with a batch less would leave the
    others waiting for ever. It is a ``DistributedSampler`` so that Lightning does not wrap it.

    Args:
        num_scenes: N.
        batch_size: at most, of a device's batch; with several devices at least 2.
        num_replicas: number of devices.
        rank: which of them.

    Raises:
        DataError: for fewer scenes than devices.
    """

    def __init__(self, num_scenes: int, batch_size: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(range(num_scenes), num_replicas, rank, shuffle=False)  # type: ignore[arg-type]
        if num_scenes < num_replicas:
            raise DataError(f"{num_scenes} scenes to evaluate on {num_replicas} devices; give more, or fewer devices")
        mine = list(range(rank, num_scenes, num_replicas))
        if num_replicas == 1:
            self.batches = [mine[i : i + batch_size] for i in range(0, num_scenes, batch_size)]
            return
        most = -(-num_scenes // num_replicas)  # scenes of the device with the most
        count = -(-most // max(2, batch_size))
        self.batches = [mine[i * len(mine) // count : (i + 1) * len(mine) // count] for i in range(count)]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Batches(Dataset[list[Any]]):
    """Items of a data set, several at a time."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __getitem__(self, places: Sequence[int]) -> list[Any]:
        return [self.items[place] for place in places]


def held_out_loader(
    items: Any, batch_size: int, num_workers: int, share: dict[str, int], taxonomy: Taxonomy
) -> DataLoader[Batch]:
    """Batches of all scenes in order.

    Args:
        items: scenes with their frames, a sized data set.
        batch_size: scenes of a batch.
        num_workers: processes that decode.
        share: ``num_replicas`` and ``rank``.
        taxonomy: what the labels are called.

    Raises:
        DataError: for fewer scenes than devices.
    """
    return ResumableLoader(
        _Batches(items),
        batch_size=None,
        sampler=EvenBatches(len(items), batch_size, **share),
        num_workers=num_workers,
        collate_fn=partial(collate, taxonomy=taxonomy),
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )
