"""Samplers: the order of the scenes of an epoch on every device, by seed, epoch and rank."""

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler, WeightedRandomSampler

from lvad.errors import DataError
from lvad.ops import action_weights
from lvad.types import Scene


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
        """How many scenes at the beginning of the order, over all devices, the next pass skips."""

    def skip(self, num_seen: int) -> None:
        """Leave the first scenes of the order, of all devices together, out of the next pass."""
        self.num_seen = num_seen

    def order(self) -> list[int]:
        """Return the scenes of all devices in the present epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return torch.randperm(len(self.dataset), generator=generator).tolist()  # type: ignore[arg-type]

    def num_left(self, num_seen: int) -> int:
        """Return how many scenes this device has left in an epoch, after the first ``num_seen`` of all devices."""
        return max(0, -(-(len(self.dataset) - num_seen) // self.num_replicas))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        num_seen, self.num_seen = self.num_seen, 0
        order = self.order()
        missing = self.num_left(num_seen) * self.num_replicas - len(order[num_seen:])
        rest = [*order[num_seen:], *itertools.islice(itertools.cycle(order), missing)]
        return iter(rest[self.rank :: self.num_replicas])


class BalancedSampler(EpochSampler):
    """Draws scenes with replacement, as many as there are weights, anew in every epoch.

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
        """Return the draws of all devices in the present epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return list(WeightedRandomSampler(self.weights, len(self.weights), generator=generator))


def scene_weights(scenes: Sequence[Scene]) -> Tensor:
    """Compute how often each scene is drawn on average, if as many are drawn as there are (``action_weights``).

    Args:
        scenes: N labelled scenes, at least one.

    Returns:
        float[N], mean 1.

    Raises:
        DataError: for a scene without labels.
    """
    if blank := [scene.id for scene in scenes if scene.actions is None]:
        raise DataError(
            f"{len(blank)} of {len(scenes)} training scenes have no actions to balance, first {blank[0]!r}; set "
            "balance to false, or train on labelled scenes (unlabelled: false)"
        )
    return action_weights(torch.tensor([scene.actions for scene in scenes]))


class EvenBatchSampler(DistributedSampler[list[int]]):
    """Batches of scenes in order for evaluation: equally many on every device, and no scene twice.

    Lightning's own sampler repeats scenes until every device has as many, and scores count them twice. Here devices
    differ by a scene at most, and those with more have one larger batch: a device with a batch less would leave the
    others waiting for ever. It is a ``DistributedSampler`` so that Lightning does not wrap it.

    Args:
        num_scenes: N.
        batch_size: the most scenes of a device's batch; with several devices at least 2.
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


def shuffled_cycle(num_scenes: int, seed: int, first: int, count: int) -> list[int]:
    """Return a part of an endless series of scene indices; each round has every index once, in a random order.

    The part depends on its place alone, so a step can ask for its scenes without a sampler that keeps a state.

    Args:
        num_scenes: number of scenes, at least 1.
        seed: seed of the orders; every round has another one.
        first: place in the series where the part begins.
        count: length of the part.
    """
    orders: dict[int, list[int]] = {}
    found = []
    for place in range(first, first + count):
        turn, position = divmod(place, num_scenes)
        if turn not in orders:
            generator = torch.Generator().manual_seed((seed << 20) + turn)
            orders[turn] = torch.randperm(num_scenes, generator=generator).tolist()
        found.append(orders[turn][position])
    return found
