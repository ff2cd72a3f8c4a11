"""Loaders that go on in the middle of an epoch, behind the last scene that a stopped run had seen.

The place in an epoch is a number of scenes in the order of all devices together. It means the same for every batch size
and every number of devices; another seed or other scenes have another order, and are refused within an epoch.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, WeightedRandomSampler

from lvad.errors import DataError

Order = Mapping[str, str | int]
"""What the order of an epoch depends on, by the names that a user knows."""

ANEW: Final = "start anew without --ckpt_path, or go on from a checkpoint of the end of an epoch"


class EpochSampler(DistributedSampler[int]):
    """A seeded permutation of the scenes in every epoch, from which the first ones can be left out.

    It is a ``DistributedSampler`` on one device too: Lightning tells it the epoch and does not wrap it. The devices
    take turns along the order; it is continued from its beginning until all have equally many.

    Args:
        num_scenes: how many there are.
        seed: of the order; the epoch is added to it.
        num_replicas: number of devices.
        rank: which of them.
    """

    def __init__(self, num_scenes: int, seed: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(range(num_scenes), num_replicas, rank, seed=seed)  # type: ignore[arg-type]
        self.num_seen = 0
        """Scenes at the beginning of the order, of all devices together, that the next pass alone leaves out."""

    def order(self) -> list[int]:
        """The scenes of all devices in the present epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return torch.randperm(len(self.dataset), generator=generator).tolist()  # type: ignore[arg-type]

    def num_left(self, num_seen: int) -> int:
        """This device's scenes in an epoch, behind the first ``num_seen`` of all devices."""
        return max(0, -(-(len(self.dataset) - num_seen) // self.num_replicas))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        num_seen, self.num_seen = self.num_seen, 0
        order = self.order()
        missing = self.num_left(num_seen) * self.num_replicas - len(order[num_seen:])
        rest = [*order[num_seen:], *itertools.islice(itertools.cycle(order), missing)]
        return iter(rest[self.rank :: self.num_replicas])


class BalancedSampler(EpochSampler):
    """Draws with replacement, as many as there are weights, anew in every epoch.

    Every device makes the same draws and takes its share of them.

    Args:
        weights: float[N], in proportion to which the scenes are drawn.
        seed: of the draws; the epoch is added to it.
        num_replicas: number of devices.
        rank: which of them.
    """

    def __init__(self, weights: Tensor, seed: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(len(weights), seed, num_replicas, rank)
        self.weights = weights.tolist()

    def order(self) -> list[int]:
        """The draws of all devices in the present epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return list(WeightedRandomSampler(self.weights, len(self.weights), generator=generator))


class ResumableLoader(DataLoader):
    """A loader over an ``EpochSampler`` whose place in the epoch Lightning keeps in the checkpoint.

    The scenes that were seen are not decoded again. It takes no random number from the training's generator.

    Args:
        args: of ``DataLoader``.
        order: what the order of an epoch depends on; kept beside the place.
        kwargs: of ``DataLoader``.
    """

    def __init__(self, *args: Any, order: Order | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **({"generator": torch.Generator().manual_seed(0)} | kwargs))
        self.order = order or {}
        self._seen = 0  # scenes of all devices in the present epoch
        self._start = 0  # of the next pass

    def __iter__(self) -> Iterator[Any]:
        # A generator: it begins with the first batch, when the sampler knows its epoch.
        start, self._start = self._start, 0
        if not isinstance(self.sampler, EpochSampler):
            yield from super().__iter__()
            return
        self.sampler.num_seen = self._seen = start
        num_left, size = self.sampler.num_left(start), self.batch_size or 1
        for number, batch in enumerate(super().__iter__(), start=1):
            self._seen = start + min(number * size, num_left) * self.sampler.num_replicas
            yield batch

    def num_batches_left(self) -> int:
        """Batches of the next pass."""
        assert isinstance(self.sampler, EpochSampler)
        return -(-self.sampler.num_left(self._start) // (self.batch_size or 1))

    def state_dict(self) -> dict[str, Any]:
        """How many scenes of the present epoch all devices have been given, and what their order depends on."""
        return {"seen": self._seen, "order": dict(self.order)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind them; a finished epoch is followed by a whole one.

        Raises:
            DataError: within an epoch whose order is another one now, or for a place that is none.
        """
        match state:
            case {"seen": int(seen), "order": dict(order)} if seen >= 0:
                pass
            case _:
                raise DataError(f"the checkpoint does not say which scenes of the epoch were seen; {ANEW}")
        if not isinstance(self.sampler, EpochSampler) or not self.sampler.num_left(seen):
            seen = 0
        changed = [
            f"{name} was {order.get(name)} and is {now}" for name, now in self.order.items() if order.get(name) != now
        ]
        if seen and changed:
            raise DataError(
                f"the checkpoint lies within an epoch, of which {seen} scenes were seen, and their order is another "
                f"now ({', '.join(changed)}): take that back, {ANEW}"
            )
        self._start = self._seen = seen
