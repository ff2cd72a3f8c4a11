"""Loaders that go on in the middle of an epoch, behind what a stopped run had already seen."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, WeightedRandomSampler


class EpochSampler(DistributedSampler[int]):
    """A seeded permutation of the scenes in every epoch, from which the first ones can be left out.

    It is a ``DistributedSampler`` on one device too: Lightning tells it the epoch and does not wrap it. The count is
    rounded up to one that the devices share equally.

    Args:
        num_scenes: how many there are.
        seed: of the order; the epoch is added to it.
        num_replicas: number of devices.
        rank: which of them.
    """

    def __init__(self, num_scenes: int, seed: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(range(num_scenes), num_replicas, rank, seed=seed)  # type: ignore[arg-type]
        self.skip = 0
        """Of this rank's scenes, at the beginning of the next pass alone."""

    def order(self) -> list[int]:
        """This rank's scenes in the present epoch."""
        return list(super().__iter__())

    def __iter__(self) -> Iterator[int]:
        skip, self.skip = self.skip, 0
        return iter(self.order()[skip:])


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
        """This rank's draws in the present epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        drawn = list(WeightedRandomSampler(self.weights, self.total_size, generator=generator))
        return drawn[self.rank :: self.num_replicas]


class ResumableLoader(DataLoader):
    """A loader over an ``EpochSampler`` whose place in the epoch Lightning keeps in the checkpoint.

    The scenes that were seen are not decoded again. It takes no random number from the training's generator.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **({"generator": torch.Generator().manual_seed(0)} | kwargs))
        self._given = 0
        self._start = 0

    def __iter__(self) -> Iterator[Any]:
        # A generator: it begins with the first batch, when the sampler knows its epoch.
        start, self._start = self._start, 0
        if isinstance(self.sampler, EpochSampler):
            self.sampler.skip = start * (self.batch_size or 1)
        self._given = start
        for batch in super().__iter__():
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches of the present epoch were given."""
        return {"given": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind them; a finished epoch is followed by a whole one."""
        self._start = self._given = state["given"] % max(1, len(self))
