"""``lvad data shard``: whole shards or none, the same files however often it was broken off, nothing lost."""

import fcntl
import json
import os
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from PIL import Image

from lvad.cli import main
from lvad.data import shard_writer
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.frames import read_frames
from lvad.data.shard_source import EncodedFrame, ShardRecipe, _windows
from lvad.data.shard_writer import write_shards
from lvad.data.shards import ShardFolder
from lvad.errors import DataError


def write_video(path, num_frames, fps=2):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width = stream.height = 32
        for i in range(num_frames):
            picture = np.full((32, 32, 3), 10 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def source(tmp_path):
    """Two folders of frames, a lone frame and two videos."""
    root = tmp_path / "source"
    for folder, size in (("a", 5), ("b/deep", 4), ("lone", 1)):
        (root / folder).mkdir(parents=True)
        for i in range(size):
            Image.new("RGB", (20, 10), (i, 0, 0)).save(root / folder / f"frame_{i}.jpg")
    Image.new("RGB", (20, 10)).save(root / "a" / "frame_9.png")
    write_video(root / "clip.mp4", 8)
    write_video(root / "b" / "other.mp4", 6)
    return root


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def scenes(folder):
    """Id and pictures of every scene."""
    shards = ShardFolder(str(folder))
    return [shards.read(s, i, 99)[::2] for s, count in enumerate(shards.counts) for i in range(count)]


@pytest.mark.parametrize(("num_frames", "stride", "fps"), [(2, 1, 1.0), (3, 2, 2.0), (1, 1, 2.0), (2, 5, 2.0)])
def test_the_scenes_are_those_of_the_source(source, tmp_path, num_frames, stride, fps):
    wanted = read_frames(source, num_frames, stride, fps).scenes
    written = write_shards(ShardRecipe(str(source), num_frames, stride, fps, 3), tmp_path / "out", progress=False)
    found = scenes(tmp_path / "out")
    assert [name for name, _ in found] == [scene.id for scene in wanted]
    assert written == (len(wanted), -(-len(wanted) // 3), 0)
    assert len({name for name, _ in found}) == len(found)
    for (_, pictures), scene in zip(found, wanted, strict=True):
        assert len(pictures) == len(scene.frames)
        if scene.frames[0].is_relative_to(source):  # not out of a video: the very bytes
            assert pictures == [path.read_bytes() for path in scene.frames]


def test_a_shard_is_a_plain_tar_in_which_every_frame_lies_once(source, tmp_path):
    write_shards(ShardRecipe(str(source / "a")), tmp_path / "out", progress=False)
    with tarfile.open(tmp_path / "out/000000.tar") as tar:
        assert tar.getnames() == [*(f"000000-{i:06d}.jpg" for i in range(5)), "000000-000005.png"]
    assert json.loads((tmp_path / "out/footage.json").read_text())["scenes"] == [5]
    assert sorted(contents(tmp_path / "out")) == ["000000.json", "000000.tar", "footage.json"]


class Killed(BaseException):
    """As if the machine had gone."""


@pytest.mark.parametrize("last", range(1, 25))
def test_a_run_that_was_broken_off_goes_on_to_the_same_files(source, tmp_path, monkeypatch, last):
    """Killed at every file that is written, before or after it gets its name."""
    recipe = ShardRecipe(str(source), scenes_per_shard=3)
    write_shards(recipe, tmp_path / "whole", progress=False)
    wanted = contents(tmp_path / "whole")
    write_whole, done = shard_writer._write_whole, []

    def kill(path, write):
        done.append(path)
        if len(done) == (last + 1) // 2:
            if last % 2:
                (path.parent / ".lvad-half").write_bytes(b"half")  # what a killed process leaves behind
            else:
                write_whole(path, write)
            raise Killed
        write_whole(path, write)

    monkeypatch.setattr(shard_writer, "_write_whole", kill)
    with pytest.raises(Killed):
        write_shards(recipe, tmp_path / "out", progress=False)
    monkeypatch.undo()
    before = {name: path.stat().st_mtime_ns for name, path in _named(tmp_path / "out")}
    if (tmp_path / "out/footage.json").exists():
        assert contents(tmp_path / "out").keys() - wanted.keys() == {"started.json"}
        return  # only the recipe had to go
    with pytest.raises(DataError, match="not finished"):
        ShardFolder(str(tmp_path / "out"))
    write_shards(recipe, tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == wanted
    kept = [name for name, time in before.items() if (tmp_path / "out" / name).stat().st_mtime_ns == time]
    tables = {Path(name).stem for name in before if name.endswith(".json")}
    assert {f"{stem}.tar" for stem in tables} <= {*kept}  # what was whole is not made again


def test_a_shard_that_was_cut_off_is_made_again(source, tmp_path):
    recipe = ShardRecipe(str(source), scenes_per_shard=3)
    write_shards(recipe, tmp_path / "out", progress=False)
    wanted = contents(tmp_path / "out")
    (tmp_path / "out/footage.json").unlink()
    (tmp_path / "out/started.json").write_text(json.dumps(recipe.__dict__))
    (tmp_path / "out/000001.tar").write_bytes(wanted["000001.tar"][:-512])
    write_shards(recipe, tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == wanted


def _named(folder):
    return [(path.name, path) for path in folder.glob("0*")]


def test_what_cannot_be_decoded_is_left_out_said_and_counted_once(source, tmp_path, capsys):
    (source / "a/frame_2.jpg").write_bytes((source / "a/frame_2.jpg").read_bytes()[:200])
    (source / "b/other.mp4").write_bytes(b"no video")
    os.mkfifo(source / "lone/frame_1.jpg")
    (source / "lone/frame_2.jpg").symlink_to("nowhere")
    assert main(["data", "shard", str(source), str(tmp_path / "out"), "--scenes_per_shard", "2"]) == 0
    said = capsys.readouterr()
    assert "4 files left out, named above" in said.out
    assert "frame_2.jpg" in said.err
    assert "other.mp4" in said.err
    assert "frame_1.jpg: cannot be read: it is no plain file" in said.err
    names = [name for name, _ in scenes(tmp_path / "out") if name.startswith("a/")]
    assert names == ["a/frame_1", "a/frame_4", "a/frame_9"]  # none spans the gap
    index = json.loads((tmp_path / "out/footage.json").read_text())
    assert index["left_out"] == 4
    (tmp_path / "out/footage.json").rename(tmp_path / "out/started.json")  # as if broken off at the very end
    (tmp_path / "out/started.json").write_text(json.dumps(index["recipe"]))
    assert main(["data", "shard", str(source), str(tmp_path / "out"), "--scenes_per_shard", "2"]) == 0
    assert json.loads((tmp_path / "out/footage.json").read_text()) == index


def test_frames_are_reduced_on_demand(source, tmp_path):
    write_shards(ShardRecipe(str(source / "a"), image_size_px=10), tmp_path / "out", progress=False)
    with tarfile.open(tmp_path / "out/000000.tar") as tar:
        assert {Image.open(tar.extractfile(member)).size for member in tar} == {(10, 5)}


def refusal(args, capsys):
    assert main(["data", "shard", *map(str, args), "--no_progress"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_it_refuses_what_it_would_destroy_or_mix(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["data", "shard", str(source / "a"), str(out)]) == 0
    capsys.readouterr()
    assert "holds finished footage; choose another folder" in refusal([source / "a", out], capsys)
    (out / "footage.json").rename(out / "notes.txt")
    assert "is not empty; choose another folder" in refusal([source / "a", out], capsys)
    (out / "started.json").write_text(json.dumps({**ShardRecipe(str(source / "a")).__dict__, "stride": 7}))
    assert "was begun with {'stride': 7}, this run asks for {'stride': 1}" in refusal([source / "a", out], capsys)


def test_two_runs_do_not_write_to_one_folder(source, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    handle = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert "another run is writing to it" in refusal([source, tmp_path / "out"], capsys)
    os.close(handle)


def test_a_source_without_footage_leaves_nothing_behind(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for name, problem in (("empty", "no pictures or videos"), ("absent", "does not exist")):
        assert problem in refusal([tmp_path / name, tmp_path / "out"], capsys)
    (tmp_path / "empty/broken.jpg").write_bytes(b"x")
    main(["data", "shard", str(tmp_path / "empty"), str(tmp_path / "out")])
    assert "nothing in it could be decoded" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_a_sequence_that_is_gone_is_named(source, tmp_path):
    recipe = ShardRecipe(str(source), scenes_per_shard=3)
    write_shards(recipe, tmp_path / "out", progress=False)
    for name in ("footage.json", "000001.json"):
        (tmp_path / "out" / name).unlink()
    (tmp_path / "out/started.json").write_text(json.dumps(recipe.__dict__))
    gone = json.loads((tmp_path / "out/000000.json").read_text())["position"]["sequence"]
    victims = [source / gone] if (source / gone).is_dir() else [*source.glob(f"{gone}.*")]
    victims[0].rename(tmp_path / "gone")
    with pytest.raises(DataError, match="out of which shards were made already, is gone"):
        write_shards(recipe, tmp_path / "out", progress=False)


@pytest.mark.parametrize("change", [{"num_frames": 0}, {"stride": 0}, {"fps": 0}, {"scenes_per_shard": 0}])
def test_a_value_out_of_range_is_one_line(source, tmp_path, capsys, change):
    ((name, value),) = change.items()
    assert name in refusal([source, tmp_path / "out", f"--{name}", value], capsys)


@given(
    st.lists(st.sampled_from([None, (2, 1), (1, 2)]), max_size=12), st.integers(1, 4), st.integers(1, 4)
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_windows_are_whole_in_order_and_of_one_size(sizes, num_frames, stride):
    frames = [None if size is None else EncodedFrame(str(i), b"x", ".jpg", size) for i, size in enumerate(sizes)]
    for window in _windows(frames, num_frames, stride):
        first, last = int(window[0].id), int(window[-1].id)
        assert [int(frame.id) for frame in window] == [*range(first, last + 1)]
        assert len({frame.size for frame in window}) == 1
        assert len(window) <= num_frames
    if stride == 1:  # nothing but the beginnings of sequences ends no scene
        seen = {frame.id for window in _windows(frames, num_frames, stride) for frame in window}
        assert seen == {frame.id for frame in frames if frame is not None}


def test_the_main_job_learns_from_footage(drawn_root, tmp_path, monkeypatch):
    """The command of docs/footage.md, for one step."""
    monkeypatch.chdir(tmp_path)
    assert main(["data", "shard", str(drawn_root / "data"), "shards", "--scenes_per_shard", "20"]) == 0
    num_scenes = ShardFolder("shards").num_scenes
    command = [
        "fit", "--config", "configs/rloo.yaml", "--data.source.footage", "shards",
        "--data.source.format", "lastframe", "--data.source.root", str(drawn_root),
    ]  # fmt: skip
    short = [
        "--trainer.max_steps", "1", "--trainer.val_check_interval", "1", "--trainer.limit_val_batches", "1",
        "--trainer.num_sanity_val_steps", "0", "--trainer.accelerator", "cpu", "--data.batch_size", "2",
        "--data.eval_batch_size", "2", "--trainer.enable_progress_bar", "false", "--model.audit", "off",
    ]  # fmt: skip
    assert main([*command, *short]) == 0
    run = tmp_path / "logs/rloo/version_0"
    ledger = json.loads((run / "ledger.json").read_text())
    (source,) = ledger["RLOOPolicy train, unlabelled, streamed"]
    assert source.startswith(f"shards ({num_scenes} scenes in ")
    assert len(ledger["RLOOPolicy val, labelled"]) == 8
    assert "RLOOPolicy train, labelled" not in ledger
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    (place,) = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert place["seen"] == 2
    assert (place["order"]["data.seed"], place["order"]["the number of training scenes"]) == (0, num_scenes)


def test_several_sources_are_one_stream(source, tmp_path):
    """As ``--data.source.footage '[one, two]'`` reads them."""
    for name in ("a", "b"):
        write_shards(ShardRecipe(str(source / name)), tmp_path / name, progress=False)
    parser = ArgumentParser()
    parser.add_class_arguments(BDDOIADataModule, "data")
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    for value, read in ((f"[{folders[0]}, {folders[1]}]", folders), (folders[0], folders[:1])):
        data = parser.instantiate_classes(parser.parse_args(["--data.source.footage", value])).data
        assert data.source.shard_urls == read
