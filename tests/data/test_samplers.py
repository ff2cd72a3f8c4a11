"""Samplers: balanced draws and their order by seed, epoch and device; even batches; shuffled cycles."""

import itertools
from collections import Counter

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.data_connector import _DataConnector
from torch.utils.data import DataLoader

from lvad.data.samplers import BalancedSampler, EvenBatchSampler, scene_weights, shuffled_cycle
from lvad.errors import DataError
from lvad.types import Scene

GO, STOP, LEFT, NONE, BOTH = (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 0), (1, 1, 0, 0)


def scenes(*actions: tuple[int, ...]) -> list[Scene]:
    return [Scene(str(i), (), "train", labels) for i, labels in enumerate(actions)]


def share(weights: torch.Tensor, labels: list[tuple[int, ...]]) -> list[float]:
    """Expected share of the draws in which each action is true."""
    return (weights / weights.sum() @ torch.tensor(labels, dtype=torch.float32)).tolist()


def test_single_actions_are_expected_equally_often():
    labels = [STOP] * 8 + [GO] * 2 + [LEFT]
    assert share(scene_weights(scenes(*labels)), labels) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


def test_the_expected_shares_of_several_actions_by_hand():
    # Stop in 4 of 5 scenes, forward in 2: 1/share 5/4 and 5/2. The scenes 5/4 (three times), 5/2 (both) and 5/2: 35/4.
    # Forward: (5/2 + 5/2) / (35/4) = 4/7. Stop: (15/4 + 5/2) / (35/4) = 5/7, from 4/5.
    labels = [STOP, STOP, STOP, BOTH, GO]
    weights = scene_weights(scenes(*labels))
    torch.testing.assert_close(weights, torch.tensor([5 / 7, 5 / 7, 5 / 7, 10 / 7, 10 / 7]))
    assert share(weights, labels) == pytest.approx([4 / 7, 5 / 7, 0, 0])


def test_scenes_without_labels_are_named():
    mixed = [*scenes(STOP, NONE), Scene("dark", (), "train")]
    with pytest.raises(DataError, match=r"1 of 3 training scenes have no actions .* 'dark'; set balance to false"):
        scene_weights(mixed)
    assert scene_weights(mixed[:2]).tolist() == [1, 1]


def test_what_is_drawn_has_the_expected_shares():
    labels = [STOP] * 84 + [GO] * 10 + [LEFT] * 6
    sampler = BalancedSampler(scene_weights(scenes(*labels)), seed=0)
    counts: Counter[tuple[int, ...]] = Counter()
    for epoch in range(60):
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert len(drawn) == len(sampler) == 100
        counts.update(labels[i] for i in drawn)
    # 6,000 draws, a standard deviation of sqrt(6000 * 1/3 * 2/3) = 37: within five of them.
    assert all(abs(counts[actions] - 2000) < 185 for actions in (STOP, GO, LEFT))


def test_draws_depend_on_seed_and_epoch_and_not_on_the_global_state():
    weights = torch.rand(50, generator=torch.Generator().manual_seed(0))
    first, second = BalancedSampler(weights, seed=3), BalancedSampler(weights, seed=3)
    torch.manual_seed(1)
    before = list(first)
    torch.manual_seed(2)
    assert list(second) == before == list(first)
    first.set_epoch(1)
    assert list(first) != before
    assert list(BalancedSampler(weights, seed=4 << 12)) not in (before, list(first))
    assert len(set(before)) < 50  # with replacement


def test_devices_take_their_parts_of_the_same_draws():
    weights = torch.rand(9, generator=torch.Generator().manual_seed(0))
    parts = [list(BalancedSampler(weights, 0, num_replicas=2, rank=rank)) for rank in range(2)]
    assert [len(part) for part in parts] == [5, 5]  # 9 rounded up to 10
    merged = [i for pair in zip(*parts, strict=True) for i in pair]
    assert merged[:9] == list(BalancedSampler(weights, 0))
    with pytest.raises(ValueError, match="rank"):
        BalancedSampler(weights, 0, num_replicas=2, rank=2)


def test_lightning_leaves_the_sampler_alone_on_several_devices(monkeypatch: pytest.MonkeyPatch):
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    monkeypatch.setattr(type(trainer._accelerator_connector), "is_distributed", True)
    needs_wrapping = _DataConnector(trainer)._requires_distributed_sampler
    assert needs_wrapping(DataLoader(range(4)))  # type: ignore[arg-type]
    assert not needs_wrapping(DataLoader(range(4), sampler=BalancedSampler(torch.ones(4), 0)))  # type: ignore[arg-type]


@pytest.mark.parametrize("num_scenes", range(1, 40))
def test_devices_have_equally_many_batches_and_every_scene_once(num_scenes):
    for num_devices, size in itertools.product(range(1, 9), range(1, 9)):
        if num_devices > num_scenes:
            continue
        ranks = [EvenBatchSampler(num_scenes, size, num_devices, rank) for rank in range(num_devices)]
        assert len({len(rank) for rank in ranks}) == 1
        batches = [batch for rank in ranks for batch in rank]
        assert all(batches)
        assert sorted(itertools.chain(*batches)) == list(range(num_scenes))
        assert max(map(len, batches)) <= (size if num_devices == 1 else max(2, size))
        assert all(list(rank) == list(rank) for rank in ranks)


def test_even_batches_by_hand():
    assert list(EvenBatchSampler(5, 2)) == [[0, 1], [2, 3], [4]]
    # Device 0 has 0 2 4 and device 1 has 1 3: two batches each, where two of two and one would leave device 0 alone.
    assert list(EvenBatchSampler(5, 2, 2, 0)) == [[0], [2, 4]]
    assert list(EvenBatchSampler(5, 2, 2, 1)) == [[1], [3]]


def test_fewer_scenes_than_devices_are_refused():
    with pytest.raises(DataError, match="1 scenes to evaluate on 2 devices; give more, or fewer devices"):
        EvenBatchSampler(1, 4, 2, 0)


def test_in_a_shuffled_cycle_each_comes_once_before_any_comes_again():
    series = shuffled_cycle(5, 3, 0, 15)
    rounds = [series[i : i + 5] for i in (0, 5, 10)]
    assert all(sorted(members) == list(range(5)) for members in rounds)
    assert len({tuple(members) for members in rounds}) > 1


def test_a_step_does_not_depend_on_those_before_it():
    assert [i for first in range(0, 12, 4) for i in shuffled_cycle(5, 3, first, 4)] == shuffled_cycle(5, 3, 0, 12)
    assert shuffled_cycle(50, 3, 0, 50) != shuffled_cycle(50, 4, 0, 50)


def test_of_nothing_there_is_no_cycle():
    with pytest.raises(ZeroDivisionError):
        shuffled_cycle(0, 0, 0, 1)
