"""Training scenes drawn so that rare actions come as often as common ones."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler, WeightedRandomSampler

from lvad.data.records import DataError
from lvad.ops import action_weights
from lvad.types import Scene


def scene_weights(scenes: Sequence[Scene]) -> Tensor:
    """How often each scene is drawn, in the mean, where as many are drawn as there are: ``action_weights``.

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


class BalancedSampler(DistributedSampler[int]):
    """Draws with replacement, as many as there are weights, anew in every epoch.

    It is a ``DistributedSampler`` so that Lightning tells it the epoch and does not wrap it: every device makes the
    same draws and takes its share of them, and a resumed run goes on with its order. The count is rounded up to one
    that the devices share equally.

    Args:
        weights: float[N], in proportion to which the scenes are drawn.
        seed: of the draws; the epoch is added to it.
        num_replicas: number of devices.
        rank: which of them.
    """

    def __init__(self, weights: Tensor, seed: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(range(len(weights)), num_replicas, rank, seed=seed)  # type: ignore[arg-type]
        self.weights = weights.tolist()

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        drawn = list(WeightedRandomSampler(self.weights, self.total_size, generator=generator))
        return iter(drawn[self.rank :: self.num_replicas])
