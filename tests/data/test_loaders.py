"""Loaders: resumed in the middle of an epoch; every scene once in evaluation."""

import itertools

import pytest
import torch

from lvad.data.datamodule import BDDOIADataModule
from lvad.data.loaders import ResumableLoader
from lvad.data.samplers import BalancedSampler, EpochSampler
from lvad.data.source import Source
from lvad.data.split import SceneCounts, Split
from lvad.errors import DataError


class Squares(torch.utils.data.Dataset):
    """Knows which entries were decoded."""

    def __init__(self, size):
        self.size, self.decoded = size, []

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.decoded.append(index)
        return index


def make_loader(sampler, num_workers=0):
    return ResumableLoader(Squares(10), batch_size=3, sampler=sampler, num_workers=num_workers)


SAMPLERS = [lambda: EpochSampler(10, seed=4), lambda: BalancedSampler(torch.arange(1.0, 11), seed=4)]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("make_sampler", SAMPLERS)
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_it_goes_on_behind_what_was_given(make_sampler, stop, num_workers):
    whole = make_loader(make_sampler())
    whole.sampler.set_epoch(2)
    batches = [batch.tolist() for batch in whole]
    broken = make_loader(make_sampler())
    broken.sampler.set_epoch(2)
    seen = [batch.tolist() for batch, _ in zip(broken, range(stop), strict=False)] if stop else []
    resumed = make_loader(make_sampler(), num_workers)
    # zip takes one more batch than it hands on
    resumed.load_state_dict({"seen": 3 * stop, "order": {}})
    resumed.sampler.set_epoch(2)
    rest = [batch.tolist() for batch in resumed]
    assert seen[:stop] + rest == batches
    assert resumed.state_dict() == {"seen": 10, "order": {}}
    resumed.sampler.set_epoch(3)
    assert len(list(resumed)) == 4  # the next epoch is whole


def test_what_was_seen_is_not_decoded_again():
    loader = make_loader(EpochSampler(10, seed=0))
    loader.load_state_dict({"seen": 9, "order": {}})
    list(loader)
    assert len(loader.dataset.decoded) == 1


def test_the_state_counts_what_was_given_and_not_what_was_fetched():
    loader = make_loader(EpochSampler(10, seed=0), num_workers=2)
    batches = iter(loader)
    next(batches)
    assert loader.state_dict() == {"seen": 3, "order": {}}


def test_a_finished_epoch_is_followed_by_a_whole_one():
    loader = make_loader(EpochSampler(10, seed=0))
    loader.load_state_dict({"seen": 10, "order": {}})
    assert len(list(loader)) == 4


def test_it_takes_no_random_number_of_the_training():
    state = torch.get_rng_state()
    list(make_loader(EpochSampler(10, seed=0)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize(("before", "now"), [(1, 2), (2, 1), (2, 3), (3, 1)])
def test_with_another_number_of_devices_what_all_have_seen_is_left_out(kind, before, now):
    """Batches of 2 on 3 devices are the first 6 scenes of the order that one device has."""

    def ranks(count):
        samplers = [kind() for _ in range(count)]
        for rank, sampler in enumerate(samplers):
            sampler.rank, sampler.num_replicas = rank, count
            sampler.set_epoch(2)
        return samplers

    order = kind()
    order.set_epoch(2)
    seen = []
    for sampler in ranks(before):
        loader = ResumableLoader(Squares(10), batch_size=2, sampler=sampler)
        seen.append(next(iter(loader)).tolist())
        state = loader.state_dict()
    assert state["seen"] == 2 * before
    rest = []
    for sampler in ranks(now):
        loader = ResumableLoader(Squares(10), batch_size=4, sampler=sampler)
        loader.load_state_dict(state)
        left = loader.num_batches_left()
        given = list(loader)
        assert len(given) == left
        rest.append(torch.cat(given).tolist())
    assert len({len(part) for part in rest}) == 1
    together = [scene for turn in zip(*seen, strict=True) for scene in turn]
    together += [scene for turn in zip(*rest, strict=True) for scene in turn]
    whole = order.order()
    assert together == (whole + whole)[: len(together)]
    assert len(together) - 10 < now


def test_a_place_that_is_none_is_refused():
    for state in ({"given": 3}, {"seen": -1, "order": {}}, {"seen": 3}, {"seen": "3", "order": {}}):
        with pytest.raises(DataError, match="does not say which scenes of the epoch were seen"):
            make_loader(EpochSampler(10, seed=0)).load_state_dict(state)


def test_the_order_of_a_data_module_names_what_it_depends_on(drawn_root):
    def order(**options):
        data = BDDOIADataModule(Source("lastframe", str(drawn_root)), **options)
        data.setup("fit")
        return data.train_dataloader().state_dict()["order"]

    whole = order()
    assert order(batch_size=3) == whole
    assert whole["the number of training scenes"] == 16
    changed = {name for name, value in order(seed=1).items() if value != whole[name]}
    assert changed == {"data.seed"}
    changed = {
        name for name, value in order(split=Split(num_scenes=SceneCounts(train=8))).items() if value != whole[name]
    }
    assert changed == {"the number of training scenes", "the digest of their names"}
    assert {name for name, value in order(balance=True).items() if value != whole[name]} == {"data.balance"}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_loaders_give_every_scene_in_order(drawn_root, num_workers):
    data = BDDOIADataModule(Source("lastframe", drawn_root), eval_batch_size=3, num_workers=num_workers)
    data.setup()
    for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        batches = [batch.ids for batch in loader]
        assert [len(ids) for ids in batches] == [3, 3, 2]
        assert list(itertools.chain(*batches)) == [scene.id for scene in data.scenes[split]]
        assert len(loader) == 3
