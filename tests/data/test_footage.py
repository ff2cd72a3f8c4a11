"""Scenes out of shards: each once in an epoch, in the same batches whoever reads them and wherever a run stopped."""

import itertools
import json
import re
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lvad.data import shards
from lvad.data.collate import collate
from lvad.data.datamodule import BDDOIADataModule, SceneCounts
from lvad.data.footage import FootageDataset, FootageSampler, check_place
from lvad.data.records import DataError
from lvad.data.resume import ResumableLoader
from lvad.data.shard_source import Recipe
from lvad.data.shard_writer import write_shards
from lvad.data.shards import Shards

COUNTS = [5, 1, 3, 5, 5, 2]  # 21 scenes in unequal shards


def write_frames(folder, sizes):
    """Drives of single-coloured frames; the colour tells which."""
    for drive, size in enumerate(sizes):
        (folder / f"drive-{drive}").mkdir(parents=True)
        for i in range(size):
            Image.new("RGB", (16, 8), (40 * drive, 10 * i, 0)).save(folder / f"drive-{drive}" / f"{i}.jpg", quality=95)


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """14 scenes of two frames in shards of 3, 3, 3, 3 and 2."""
    folder = tmp_path_factory.mktemp("footage")
    write_frames(folder / "source", [6, 7, 4])
    write_shards(Recipe(str(folder / "source"), scenes_per_shard=3), folder / "shards", progress=False)
    return folder / "shards"


def orders(epoch=0, num_replicas=1, num_mixed=2, seed=0):
    samplers = [FootageSampler(COUNTS, seed, num_replicas, rank, num_mixed) for rank in range(num_replicas)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [sampler.order() for sampler in samplers]


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
    (order,) = orders(num_mixed=2)
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
        sampler = FootageSampler(COUNTS, 0, 2, rank, num_mixed=2)
        sampler.set_epoch(2)
        sampler.skip = skip
        assert list(sampler) == whole[skip:]
        assert list(sampler) == whole  # the next pass is a whole one


def test_a_million_shards_are_not_written_out():
    """A thousand million scenes: their numbers alone would take 8 GB."""
    counts = np.full(1_000_000, 1000)
    tracemalloc.start()
    sampler = FootageSampler(counts, 0, num_replicas=64, rank=63)
    sampler.skip = 10_000_000  # of this rank's 15,625,000
    first = list(itertools.islice(sampler, 5000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(sampler) == 15_625_000
    assert len({*first}) == 5000
    assert peak < 64e6  # some numbers per shard, and one window of 64,000 scenes


def test_tables_of_the_last_shards_alone_are_kept(footage, monkeypatch):
    monkeypatch.setattr(shards, "NUM_TABLES", 2)
    dataset = FootageDataset([Shards(str(footage))], num_frames=2)
    for i in range(len(dataset)):
        dataset[i]
        assert len(dataset.sources[0]._tables) <= 2


def test_fewer_scenes_than_devices_are_refused():
    with pytest.raises(DataError, match="21 scenes of footage for 22 devices"):
        FootageSampler(COUNTS, 0, num_replicas=22)


def make_loader(footage, num_workers=0, num_replicas=1, rank=0, epoch=1):
    dataset = FootageDataset([Shards(str(footage))], num_frames=2)
    sampler = FootageSampler(dataset.counts, 3, num_replicas, rank, num_mixed=2)
    sampler.set_epoch(epoch)
    return ResumableLoader(dataset, batch_size=3, sampler=sampler, num_workers=num_workers, collate_fn=collate)


def batches(loader):
    return [(batch.ids, [frames.flatten().tolist() for frames in batch.frames]) for batch in loader]


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


def test_an_epoch_has_every_scene_once_with_its_own_frames(footage):
    batch = next(iter(DataLoader(FootageDataset([Shards(str(footage))], 2), batch_size=14, collate_fn=collate)))
    assert sorted(batch.ids) == sorted(f"drive-{d}/{i}" for d, size in enumerate([6, 7, 4]) for i in range(1, size))
    for name, frames in zip(batch.ids, batch.frames, strict=True):
        drive, i = map(int, re.fullmatch(r"drive-(\d)/(\d)", name).groups())
        colours = frames.float().mean((2, 3)).tolist()  # of the frame before, and of the one that names the scene
        for colour, expected in zip(colours, ([40 * drive, 10 * i - 10, 0], [40 * drive, 10 * i, 0]), strict=True):
            assert np.allclose(colour, expected, atol=3)
    assert (batch.actions == -1).all()
    assert batch.facts == [None] * 14


def test_fewer_frames_are_the_last_ones_and_sources_are_joined(footage):
    two, one = (FootageDataset([Shards(str(footage))] * 2, num_frames) for num_frames in (2, 1))
    assert len(one) == 28
    for i in (0, 13, 14, 27):
        assert one[i][0].id == two[i % 14][0].id
        assert torch.equal(one[i][1], two[i][1][1:])


class Ranges(BaseHTTPRequestHandler):
    """Serves ranges of bytes, and says "busy" to every fifth request."""

    asked = itertools.count(1)

    def do_GET(self):
        if next(self.asked) % 5 == 0:
            self.send_error(503)
            return
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if match:
            content = content[int(match[1]) : int(match[2]) + 1]
        self.send_response(206 if match else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def served(footage):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    server.folder = footage
    with ThreadPoolExecutor() as pool:
        pool.submit(server.serve_forever, 0.01)
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
    server.server_close()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_server_gives_the_same_and_is_asked_again_when_it_is_busy(footage, served, num_workers, monkeypatch):
    monkeypatch.setattr(shards, "_WAITS_S", (0, 0, 0, 0))
    assert batches(make_loader(served, num_workers)) == batches(make_loader(footage))


def test_what_is_not_there_is_named(footage, served, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_WAITS_S", (0, 0, 0, 0))
    for url in (str(tmp_path), f"{served}/nothing"):
        with pytest.raises(DataError, match=r"footage.json: there is none: no footage, or not finished"):
            Shards(url)
    with pytest.raises(DataError, match="nonsense://x: cannot be opened"):
        Shards("nonsense://x")


def copied(footage, folder):
    for path in footage.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scenes": [3, 3, 0]}, r"footage\.json: no index"),
        ({"format": "other"}, r"footage\.json: no index"),
        ({"scenes": [9]}, r"000000\.json: lists 3 scenes, footage\.json 9"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(footage, tmp_path, change, message):
    rewrite(copied(footage, tmp_path) / "footage.json", **change)
    with pytest.raises(DataError, match=message):
        FootageDataset([Shards(str(tmp_path))], 2)[0]


def test_a_table_that_does_not_fit_is_refused(footage, tmp_path):
    for scene in (["x", 0, 99], ["x", -1, 1], ["x", 0, 0], ["x"]):
        rewrite(copied(footage, tmp_path) / "000000.json", scenes=[scene] * 3)
        with pytest.raises(DataError, match=r"000000\.json: no table of a shard"):
            Shards(str(tmp_path)).read(0, 1, 2)


def test_a_shard_cut_off_and_a_frame_that_is_broken_are_named(footage, tmp_path):
    copied(footage, tmp_path)
    tar = tmp_path / "000000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[:600])
    dataset = FootageDataset([Shards(str(tmp_path))], 2)
    with pytest.raises(DataError, match=r"000000.tar, scene 'drive-0/1': gave \d+ bytes where"):
        dataset[0]
    tar.write_bytes(bytes(len(content)))
    with pytest.raises(DataError, match=r"000000\.tar, frame 0: image cannot be decoded"):
        dataset[0]


def make_data(drawn_root, footage, **options):
    return BDDOIADataModule("lastframe", str(drawn_root), footage=str(footage), batch_size=4, **options)


def test_the_data_module_streams_its_training_scenes(drawn_root, footage):
    data = make_data(drawn_root, footage)
    data.setup("fit")
    loader = data.train_dataloader()
    assert len(loader) == 4
    assert all(name.startswith("drive-") for batch in loader for name in batch.ids)
    assert [len(data.scenes[split]) for split in ("train", "val", "test")] == [0, 8, 8]
    assert "training scenes streamed, without labels: " in data.summary()
    assert data.state_dict() == {"scenes": 14, "batch": 4, "seed": 0}


def test_the_ledger_says_where_the_footage_came_from(drawn_root, footage):
    data = make_data(drawn_root, footage)
    data.setup("fit")
    uses = data.uses("RLOOPolicy")
    (source,) = uses.pop("RLOOPolicy train, unlabelled, streamed")
    assert re.fullmatch(rf"{footage} \(14 scenes in 5 shards, index [0-9a-f]{{12}}\)", source)
    assert [*uses] == ["RLOOPolicy val, labelled"]


def test_no_footage_is_needed_for_a_test(drawn_root, tmp_path):
    data = make_data(drawn_root, tmp_path / "gone")
    data.setup("test")
    assert len(data.test_dataloader()) == 2
    with pytest.raises(DataError, match=r"gone/footage\.json"):
        data.setup("fit")


@pytest.mark.parametrize("options", [{"balance": True}, {"num_scenes": SceneCounts(train=3)}])
def test_what_footage_has_no_answer_to_is_refused(drawn_root, footage, options):
    with pytest.raises(ValueError, match="cannot be set with footage"):
        make_data(drawn_root, footage, **options)


def test_a_place_in_another_stream_is_told():
    place = {"scenes": 14, "batch": 4, "seed": 0}
    check_place({}, place)
    check_place(place, place)
    with pytest.warns(UserWarning, match="batch was 4 and is 8"):
        check_place(place, {**place, "batch": 8})
