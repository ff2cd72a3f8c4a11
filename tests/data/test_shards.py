"""Scenes read out of shards by ranges of bytes, from a disk and from a server."""

import itertools
import json
import re
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from filmed import batches, make_footage, make_loader
from torch.utils.data import DataLoader

from lvad.data import shards
from lvad.data.collate import collate
from lvad.data.shard_dataset import ShardDataset
from lvad.data.shards import ShardFolder
from lvad.errors import DataError


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    return make_footage(tmp_path_factory.mktemp("footage"))


def test_tables_of_the_last_shards_alone_are_kept(footage, monkeypatch):
    monkeypatch.setattr(shards, "NUM_TABLES", 2)
    dataset = ShardDataset([ShardFolder(str(footage))], num_frames=2)
    for i in range(len(dataset)):
        dataset[i]
        assert len(dataset.sources[0]._tables) <= 2


def test_an_epoch_has_every_scene_once_with_its_own_frames(footage):
    batch = next(iter(DataLoader(ShardDataset([ShardFolder(str(footage))], 2), batch_size=14, collate_fn=collate)))
    assert sorted(batch.ids) == sorted(f"drive-{d}/{i}" for d, size in enumerate([6, 7, 4]) for i in range(1, size))
    for name, frames in zip(batch.ids, batch.frames, strict=True):
        drive, i = map(int, re.fullmatch(r"drive-(\d)/(\d)", name).groups())
        colours = frames.float().mean((2, 3)).tolist()  # of the frame before, and of the one that names the scene
        for colour, expected in zip(colours, ([40 * drive, 10 * i - 10, 0], [40 * drive, 10 * i, 0]), strict=True):
            assert np.allclose(colour, expected, atol=3)
    assert (batch.actions == -1).all()
    assert batch.facts == [None] * 14


def test_fewer_frames_are_the_last_ones_and_sources_are_joined(footage):
    two, one = (ShardDataset([ShardFolder(str(footage))] * 2, num_frames) for num_frames in (2, 1))
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
            ShardFolder(url)
    with pytest.raises(DataError, match="nonsense://x: cannot be opened"):
        ShardFolder("nonsense://x")


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
        ShardDataset([ShardFolder(str(tmp_path))], 2)[0]


def test_a_table_that_does_not_fit_is_refused(footage, tmp_path):
    for scene in (["x", 0, 99], ["x", -1, 1], ["x", 0, 0], ["x"]):
        rewrite(copied(footage, tmp_path) / "000000.json", scenes=[scene] * 3)
        with pytest.raises(DataError, match=r"000000\.json: no table of a shard"):
            ShardFolder(str(tmp_path)).read(0, 1, 2)


def test_a_shard_cut_off_and_a_frame_that_is_broken_are_named(footage, tmp_path):
    copied(footage, tmp_path)
    tar = tmp_path / "000000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[:600])
    dataset = ShardDataset([ShardFolder(str(tmp_path))], 2)
    with pytest.raises(DataError, match=r"000000.tar, scene 'drive-0/1': gave \d+ bytes where"):
        dataset[0]
    tar.write_bytes(bytes(len(content)))
    with pytest.raises(DataError, match=r"000000\.tar, frame 0: image cannot be decoded"):
        dataset[0]
