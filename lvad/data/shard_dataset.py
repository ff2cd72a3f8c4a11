"""A data set of scenes in shards of footage, and the sampler that orders them.

The order of an epoch is a permutation of the shards by seed and epoch, and within every window of
``num_shuffled_shards`` shards a permutation of their scenes. It is never written out: the place in it says which scene
comes next, so a run goes on exactly where it stopped, whatever the number of workers, and nothing is held but the
numbers of one such window.

All ranks follow the same order, and each takes every ``num_replicas``-th scene, so shards of unequal length leave no
rank with fewer batches than another. Where ``num_replicas`` does not divide the number of scenes, the scenes left over
(fewer than ``num_replicas``) are not given in that epoch; the next epoch leaves out others.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lvad.data.collate import stack_frames
from lvad.data.images import open_image
from lvad.data.samplers import EpochSampler
from lvad.data.shards import NUM_TABLES, ShardFolder
from lvad.errors import DataError
from lvad.types import Scene

NUM_SHUFFLED_SHARDS: Final = NUM_TABLES
"""How many shards are shuffled together; the tables of all of them are kept in memory."""


class ShardSampler(EpochSampler):
    """The scenes of one rank, by their number in all shards, one after the other.

    Args:
        counts: scenes of each shard.
        seed: of the order, with the epoch.
        num_replicas: number of devices.
        rank: which of them.
        num_shuffled_shards: shards between which scenes are shuffled.
    """

    def __init__(
        self,
        counts: Sequence[int] | NDArray[np.int64],
        seed: int,
        num_replicas: int = 1,
        rank: int = 0,
        num_shuffled_shards: int = NUM_SHUFFLED_SHARDS,
    ) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        super().__init__(int(self.counts.sum()), seed, num_replicas, rank)
        if len(self.dataset) < num_replicas:  # type: ignore[arg-type]
            raise DataError(f"{len(self.dataset)} scenes of footage for {num_replicas} devices; use fewer devices")  # type: ignore[arg-type]
        self.num_samples = int(self.counts.sum()) // num_replicas
        self.total_size = self.num_samples * num_replicas
        self.num_shuffled_shards = num_shuffled_shards

    def order(self) -> list[int]:
        """Return the scenes of all ranks in the present epoch as one list, for small footage."""
        return list(self._ordered(0, int(self.counts.sum()), 1))

    def num_left(self, num_seen: int) -> int:
        """Return how many scenes this rank has left in an epoch, after the first ``num_seen`` of all ranks."""
        return max(0, int(self.counts.sum()) - num_seen) // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        num_seen, self.num_seen = self.num_seen, 0
        end = num_seen + self.num_left(num_seen) * self.num_replicas
        return self._ordered(num_seen + self.rank, end, self.num_replicas)

    def _ordered(self, place: int, last: int, step: int) -> Iterator[int]:
        """Yield every ``step``-th scene of the order, from ``place`` to before ``last``."""
        starts = self.counts.cumsum() - self.counts
        shards = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.counts))
        begin = 0  # of the window
        for window in range(0, len(shards), self.num_shuffled_shards):
            chosen = shards[window : window + self.num_shuffled_shards]
            end = min(begin + int(self.counts[chosen].sum()), last)
            if place < end:
                numbers = np.concatenate([starts[s] + np.arange(int(self.counts[s])) for s in chosen.tolist()])
                np.random.default_rng([self.seed, self.epoch, window]).shuffle(numbers)
                mine = numbers[place - begin : end - begin : step]
                place += len(mine) * step
                yield from mine.tolist()
            begin = end


class ShardDataset(Dataset[tuple[Scene, Tensor]]):
    """The scenes of some folders of shards, read and decoded when asked for; they have no labels.

    Args:
        sources: what to read.
        num_frames: M, the most frames of a scene, counted from the last.
        image_size_px: longest edge of a frame; None keeps the size in the shard.
    """

    def __init__(self, sources: Sequence[ShardFolder], num_frames: int, image_size_px: int | None = None) -> None:
        self.sources = sources
        self.num_frames = num_frames
        self.image_size_px = image_size_px
        self.counts = np.concatenate([source.counts for source in sources])
        """Scenes of each shard, of all sources."""
        self._ends = self.counts.cumsum()
        self._first_shards = np.cumsum([0, *(len(source.counts) for source in sources)])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> tuple[Scene, Tensor]:
        """Read and decode one scene, uint8[M, 3, H, W].

        Raises:
            DataError: naming shard and frame, where it cannot be read.
        """
        shard = int(np.searchsorted(self._ends, index, side="right"))
        place = index - int(self._ends[shard] - self.counts[shard])
        source = int(np.searchsorted(self._first_shards, shard, side="right")) - 1
        number = shard - int(self._first_shards[source])
        name, names, contents = self.sources[source].read(number, place, self.num_frames)
        images = [open_image(n, self.image_size_px, content) for n, content in zip(names, contents, strict=True)]
        return Scene(name, (), "train"), stack_frames(name, names, images)
