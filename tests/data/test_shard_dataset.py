"""Scenes out of shards: each once in an epoch, in the same batches whoever reads them and wherever a run stopped."""

import itertools
import re
import tracemalloc

import numpy as np
import pytest
import torch
from filmed import batches, make_footage, make_loader
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lvad.commands.last_checkpoint import LastCheckpoint
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.shard_dataset import ShardSampler
from lvad.data.source import Source
from lvad.data.split import SceneCounts, Split
from lvad.errors import DataError

COUNTS = [5, 1, 3, 5, 5, 2]  # 21 scenes in unequal shards


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """14 scenes of two frames in shards of 3, 3, 3, 3 and 2."""
    return make_footage(tmp_path_factory.mktemp("footage"))


def orders(epoch=0, num_replicas=1, num_shuffled_shards=2, seed=0):
    samplers = [ShardSampler(COUNTS, seed, num_replicas, rank, num_shuffled_shards) for rank in range(num_replicas)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [list(sampler) for sampler in samplers]


@pytest.mark.parametrize("num_replicas", [1, 2, 4, 21])
def test_every_rank_gets_equally_many_scenes_and_no_scene_comes_twice(num_replicas):
    for epoch in range(3):
        ranks = orders(epoch, num_replicas)
        assert {len(rank) for rank in ranks} == {21 // num_replicas}
        given = list(itertools.chain(*ranks))
        assert len({*given}) == len(given)
        assert {*given} <= {*range(21)}  # with one rank all of them


def test_ranks_walk_along_the_order_of_one():
    (one,), ranks = orders(epoch=1), orders(epoch=1, num_replicas=2)
    assert [scene for pair in zip(*ranks, strict=True) for scene in pair] == one[:20]


def test_the_order_changes_with_epoch_and_seed_and_with_nothing_else():
    assert orders() == orders()
    assert orders() != orders(epoch=1) != orders(seed=1)


def test_scenes_are_shuffled_between_neighbours_in_the_permutation_of_shards():
    owners = np.repeat(np.arange(6), COUNTS)
    (order,) = orders(num_shuffled_shards=2)
    windows = list(_windows(owners[order].tolist()))
    assert len(windows) == 3
    assert sorted(itertools.chain(*({*window} for window in windows))) == [0, 1, 2, 3, 4, 5]
    assert any(window != sorted(window) and window != sorted(window, reverse=True) for window in windows)


def _windows(owners):
    """Cut where the scenes of two shards have all been given."""
    window, left = [], dict(enumerate(COUNTS))
    for owner in owners:
        window.append(owner)
        left[owner] -= 1
        if len({*window}) == 2 and not any(left[o] for o in {*window}):
            yield window
            window = []


@pytest.mark.parametrize("skip", range(11))
def test_what_is_skipped_is_the_beginning_of_the_order(skip):
    for rank, whole in enumerate(orders(epoch=2, num_replicas=2)):
        sampler = ShardSampler(COUNTS, 0, 2, rank, num_shuffled_shards=2)
        sampler.set_epoch(2)
        sampler.skip(2 * skip)
        assert list(sampler) == whole[skip:]
        assert list(sampler) == whole  # the next pass is a whole one


@pytest.mark.parametrize("now", [1, 2, 4])
def test_with_another_number_of_devices_what_all_have_seen_is_left_out(now):
    (whole,) = orders(epoch=2, num_shuffled_shards=2)
    rest = []
    for rank in range(now):
        sampler = ShardSampler(COUNTS, 0, now, rank, num_shuffled_shards=2)
        sampler.set_epoch(2)
        sampler.skip(9)  # batches of 3 on 3 devices
        rest.append(list(sampler))
    together = [scene for turn in zip(*rest, strict=True) for scene in turn]
    assert together == whole[9 : 9 + len(together)]
    assert len(whole) - 9 - len(together) < now


def test_a_million_shards_are_not_written_out():
    """A thousand million scenes: their numbers alone would take 8 GB."""
    counts = np.full(1_000_000, 1000)
    tracemalloc.start()
    sampler = ShardSampler(counts, 0, num_replicas=64, rank=63)
    sampler.skip(64 * 10_000_000)  # of this rank's 15,625,000
    first = list(itertools.islice(sampler, 5000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(sampler) == 15_625_000
    assert len({*first}) == 5000
    assert peak < 64e6  # some numbers per shard, and one window of 64,000 scenes


def test_fewer_scenes_than_devices_are_refused():
    with pytest.raises(DataError, match="21 scenes of footage for 22 devices"):
        ShardSampler(COUNTS, 0, num_replicas=22)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("num_replicas", "rank", "stops"), [(1, 0, (1, 3)), (2, 1, (2,))])
def test_a_resumed_run_gives_the_batches_of_an_unbroken_one(footage, num_workers, num_replicas, rank, stops):
    whole = batches(make_loader(footage, 0, num_replicas, rank))
    following = batches(make_loader(footage, 0, num_replicas, rank, epoch=2))
    assert sum(len(ids) for ids, _ in whole) == 14 // num_replicas
    for stop in stops:
        broken = make_loader(footage, num_workers, num_replicas, rank)
        running = iter(broken)
        seen = batches([next(running) for _ in range(stop)])
        resumed = make_loader(footage, num_workers, num_replicas, rank)
        resumed.load_state_dict(broken.state_dict())
        assert seen + batches(resumed) == whole
        resumed.sampler.set_epoch(2)
        assert batches(resumed) == following


def make_data(drawn_root, footage, **options):
    return BDDOIADataModule(Source("lastframe", str(drawn_root), footage=str(footage)), **{"batch_size": 4, **options})


def test_the_data_module_streams_its_training_scenes(drawn_root, footage):
    data = make_data(drawn_root, footage)
    data.setup("fit")
    loader = data.train_dataloader()
    assert len(loader) == 4
    assert all(name.startswith("drive-") for batch in loader for name in batch.ids)
    assert [len(data.scenes[split]) for split in ("train", "val", "test")] == [0, 8, 8]
    assert "training scenes streamed, without labels: " in data.summary()
    order = loader.state_dict()["order"]
    assert (order["data.seed"], order["the number of training scenes"]) == (0, 14)


def test_the_ledger_says_where_the_footage_came_from(drawn_root, footage):
    data = make_data(drawn_root, footage)
    data.setup("fit")
    uses = data.stage_ledger("RLOOPolicy")
    (source,) = uses.pop("RLOOPolicy train, unlabelled, streamed")
    assert re.fullmatch(rf"{footage} \(14 scenes in 5 shards, index [0-9a-f]{{12}}\)", source)
    assert [*uses] == ["RLOOPolicy val, labelled"]


def test_no_footage_is_needed_for_a_test(drawn_root, tmp_path):
    data = make_data(drawn_root, tmp_path / "gone")
    data.setup("test")
    assert len(data.test_dataloader()) == 2
    with pytest.raises(DataError, match=r"gone/footage\.json"):
        data.setup("fit")


@pytest.mark.parametrize("options", [{"balance": True}, {"split": Split(num_scenes=SceneCounts(train=3))}])
def test_what_footage_has_no_answer_to_is_refused(drawn_root, footage, options):
    with pytest.raises(ValueError, match="cannot be set with footage"):
        make_data(drawn_root, footage, **options)


class Sees(LightningModule):
    """Learns nothing, and remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch.ids))
        return 0 * self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_lightning_goes_on_in_the_middle_of_an_epoch(drawn_root, footage, tmp_path, num_workers):
    def fit(checkpoint=None, batch_size=4, **options):
        module = Sees()
        trainer = Trainer(
            accelerator="cpu", limit_val_batches=0, max_epochs=2, logger=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path, **options,
        )  # fmt: skip
        trainer.fit(
            module, make_data(drawn_root, footage, num_workers=num_workers, batch_size=batch_size), ckpt_path=checkpoint
        )
        return module.seen

    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(callbacks=[saver, LastCheckpoint()])
    assert [len(ids) for _, ids in whole] == [4, 4, 4, 2] * 2
    assert all(len({name for e, ids in whole if e == epoch for name in ids}) == 14 for epoch in (0, 1))
    for step in (2, 4, 7):
        resumed = fit(tmp_path / f"step={step}.ckpt", callbacks=[LastCheckpoint()])
        assert resumed == whole[step:]
    halves = fit(tmp_path / "step=2.ckpt", batch_size=2, callbacks=[LastCheckpoint()])
    assert [len(ids) for _, ids in halves] == [2] * 3 + [2] * 7
    names = [name for _, ids in [*whole[:2], *halves[:3]] for name in ids]
    assert names == [name for _, ids in whole[:4] for name in ids]
