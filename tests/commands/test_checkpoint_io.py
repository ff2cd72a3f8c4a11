"""A checkpoint is written whole or not at all: on a full disk, and when the process is killed."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from lvad.commands.checkpoint_io import AtomicCheckpointIO
from lvad.commands.lightning_cli import make_cli
from lvad.errors import DataError

SMALL = {"state_dict": {"w": torch.zeros(10)}, "global_step": 1}
LARGE = {"state_dict": {"w": torch.ones(1_000_000)}, "global_step": 2}

FULL = """
    import resource, signal, sys, torch
    from lvad.commands.checkpoint_io import AtomicCheckpointIO
    from lvad.errors import DataError
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(1_000_000)}}, sys.argv[1])
    except DataError as error:
        print(error)
"""
KILLED = """
    import io, os, signal, sys, torch
    from lvad.commands import checkpoint_io
    def half(checkpoint, file):
        file.write(b"half a checkpoint")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    checkpoint_io.torch.save = half
    checkpoint_io.AtomicCheckpointIO().save_checkpoint({}, sys.argv[1])
"""


def run(script, path):
    return subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(path)], capture_output=True, text=True)


@pytest.fixture
def last(tmp_path):
    path = tmp_path / "checkpoints/last.ckpt"
    AtomicCheckpointIO().save_checkpoint(SMALL, path)
    return path


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


def test_a_new_checkpoint_takes_the_place_of_the_old_one(last):
    AtomicCheckpointIO().save_checkpoint(LARGE, last)
    assert step_of(last) == 2
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_one_and_is_named_in_one_line(last):
    done = run(FULL, last)
    assert done.returncode == 0, done.stderr
    assert str(last) in done.stdout
    assert "what was there before is kept; make room and go on with --ckpt_path last" in done.stdout
    assert step_of(last) == 1
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.slow
def test_a_kill_while_writing_leaves_the_last_one_and_does_not_hinder_the_next(last):
    assert run(KILLED, last).returncode == -9
    assert step_of(last) == 1
    AtomicCheckpointIO().save_checkpoint(LARGE, last)
    assert step_of(last) == 2
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where a folder should be")
    with pytest.raises(DataError, match="could not be written"):
        AtomicCheckpointIO().save_checkpoint(SMALL, tmp_path / "checkpoints/last.ckpt")


def test_what_is_there_is_never_open_for_writing(last, monkeypatch):
    seen = []
    replace = os.replace

    def watch(source, target):
        seen.append((step_of(target), step_of(source)))  # both are whole at the moment of the change
        replace(source, target)

    monkeypatch.setattr("lvad.commands.checkpoint_io.os.replace", watch)
    AtomicCheckpointIO().save_checkpoint(LARGE, last)
    assert seen == [(1, 2)]


def test_every_stage_writes_so_unless_a_plugin_does():
    small = ["--config", "configs/clip_reward.yaml", "--trainer.logger", "false", "--trainer.accelerator", "cpu"]
    assert type(make_cli(small).trainer.strategy.checkpoint_io) is AtomicCheckpointIO
    other = ["--trainer.plugins", "lightning.pytorch.plugins.io.AsyncCheckpointIO"]
    assert type(make_cli([*small, *other]).trainer.strategy.checkpoint_io) is AsyncCheckpointIO
