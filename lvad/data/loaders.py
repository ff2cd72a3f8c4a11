"""Loaders of scenes: for training, resumed in the middle of an epoch; for evaluation, every scene once.

The place in an epoch is a number of scenes in the order of all devices together. It means the same for every batch size
and every number of devices; another seed or other scenes have another order, and are refused within an epoch.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch.utils.data import DataLoader, Dataset

from lvad.data.collate import collate
from lvad.data.samplers import EpochSampler, EvenBatchSampler
from lvad.errors import DataError
from lvad.taxonomy import Taxonomy
from lvad.types import Batch

OrderKey = Mapping[str, str | int]
"""What the order of an epoch depends on, by the names that a user knows."""

RESTART_REMEDY: Final = "start anew without --ckpt_path, or go on from a checkpoint of the end of an epoch"


class ResumableLoader(DataLoader):
    """A ``DataLoader`` that, with an ``EpochSampler``, saves its place in the epoch in Lightning's checkpoint.

    The scenes that were seen are not decoded again. It takes no random number from the training's generator.

    Args:
        args: of ``DataLoader``.
        order_key: what the order of an epoch depends on; kept beside the place.
        kwargs: of ``DataLoader``.
    """

    def __init__(self, *args: Any, order_key: OrderKey | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **({"generator": torch.Generator().manual_seed(0)} | kwargs))
        self.order_key = order_key or {}
        self._seen = 0  # scenes of all devices in the present epoch
        self._start = 0  # of the next pass

    def __iter__(self) -> Iterator[Any]:
        # A generator: it begins with the first batch, when the sampler knows its epoch.
        start, self._start = self._start, 0
        if not isinstance(self.sampler, EpochSampler):
            yield from super().__iter__()
            return
        self._seen = start
        self.sampler.skip(start)
        num_left, size = self.sampler.num_left(start), self.batch_size or 1
        for number, batch in enumerate(super().__iter__(), start=1):
            self._seen = start + min(number * size, num_left) * self.sampler.num_replicas
            yield batch

    def num_batches_left(self) -> int:
        """Return the number of batches of the next pass."""
        assert isinstance(self.sampler, EpochSampler)
        return -(-self.sampler.num_left(self._start) // (self.batch_size or 1))

    def state_dict(self) -> dict[str, Any]:
        """Return how many scenes of the present epoch all devices were given, and what their order depends on."""
        return {"seen": self._seen, "order": dict(self.order_key)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the scenes that were seen; a finished epoch is followed by a whole one.

        Raises:
            DataError: within an epoch whose order has changed, or for a state that names no place in an epoch.
        """
        match state:
            case {"seen": int(seen), "order": dict(order)} if seen >= 0:
                pass
            case _:
                raise DataError(f"the checkpoint does not say which scenes of the epoch were seen; {RESTART_REMEDY}")
        if not isinstance(self.sampler, EpochSampler) or not self.sampler.num_left(seen):
            seen = 0
        changed = [
            f"{name} was {order.get(name)} and is {now}"
            for name, now in self.order_key.items()
            if order.get(name) != now
        ]
        if seen and changed:
            raise DataError(
                f"the checkpoint lies within an epoch, of which {seen} scenes were seen, and their order is another "
                f"now ({', '.join(changed)}): take that back, {RESTART_REMEDY}"
            )
        self._start = self._seen = seen


class _BatchDataset(Dataset[list[Any]]):
    """A data set indexed by a batch of indices at a time."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __getitem__(self, indices: Sequence[int]) -> list[Any]:
        return [self.items[index] for index in indices]


def evaluation_loader(
    items: Any, batch_size: int, num_workers: int, replica: dict[str, int], taxonomy: Taxonomy
) -> DataLoader[Batch]:
    """Make a loader of all scenes in order, each once over all devices.

    Args:
        items: scenes with their frames, a sized data set.
        batch_size: scenes of a batch.
        num_workers: processes that decode.
        replica: ``num_replicas`` and ``rank``.
        taxonomy: the label set.

    Raises:
        DataError: for fewer scenes than devices.
    """
    return ResumableLoader(
        _BatchDataset(items),
        batch_size=None,
        sampler=EvenBatchSampler(len(items), batch_size, **replica),
        num_workers=num_workers,
        collate_fn=partial(collate, taxonomy=taxonomy),
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )
