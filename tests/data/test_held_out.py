"""Scenes to evaluate: each on one device and once, and no device waits for another."""

import itertools

import pytest

from lvad.data.datamodule import BDDOIADataModule
from lvad.data.held_out import EvenBatches
from lvad.data.source import Source
from lvad.errors import DataError


@pytest.mark.parametrize("num_scenes", range(1, 40))
def test_devices_have_equally_many_batches_and_every_scene_once(num_scenes):
    for num_devices, size in itertools.product(range(1, 9), range(1, 9)):
        if num_devices > num_scenes:
            continue
        ranks = [EvenBatches(num_scenes, size, num_devices, rank) for rank in range(num_devices)]
        assert len({len(rank) for rank in ranks}) == 1
        batches = [batch for rank in ranks for batch in rank]
        assert all(batches)
        assert sorted(itertools.chain(*batches)) == list(range(num_scenes))
        assert max(map(len, batches)) <= (size if num_devices == 1 else max(2, size))
        assert all(list(rank) == list(rank) for rank in ranks)


def test_by_hand():
    assert list(EvenBatches(5, 2)) == [[0, 1], [2, 3], [4]]
    # Device 0 has 0 2 4 and device 1 has 1 3: two batches each, where two of two and one would leave device 0 alone.
    assert list(EvenBatches(5, 2, 2, 0)) == [[0], [2, 4]]
    assert list(EvenBatches(5, 2, 2, 1)) == [[1], [3]]


def test_fewer_scenes_than_devices_are_refused():
    with pytest.raises(DataError, match="1 scenes to evaluate on 2 devices; give more, or fewer devices"):
        EvenBatches(1, 4, 2, 0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loaders_give_every_scene_in_order(drawn_root, num_workers):
    data = BDDOIADataModule(Source("lastframe", drawn_root), eval_batch_size=3, num_workers=num_workers)
    data.setup()
    for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        batches = [batch.ids for batch in loader]
        assert [len(ids) for ids in batches] == [3, 3, 2]
        assert list(itertools.chain(*batches)) == [scene.id for scene in data.scenes[split]]
        assert len(loader) == 3
