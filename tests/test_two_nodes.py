"""Two nodes of one process each, on the loopback: started by torchrun, killed, and gone on with by the same command."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lvad.commands.run_folder import find_interrupted_run
from lvad.report.board import tag

POLICY = "--model.init_args.policy.init_args"
LIMIT_S = 240
STEPS, STEPS_PER_CHECKPOINT = 12, 2


@pytest.fixture
def command(vlm_folder, clip_folder, drawn_root):
    """``lvad fit`` as a cluster starts it, the first time and every time after."""
    fit = [
        "fit", "--config", "configs/rloo.yaml", "--trainer.accelerator", "cpu", "--trainer.num_nodes", 2,
        "--trainer.devices", 1, "--trainer.strategy", "ddp", "--trainer.max_epochs", 2, "--trainer.max_steps", STEPS,
        "--trainer.val_check_interval", STEPS_PER_CHECKPOINT, "--trainer.limit_val_batches", 1,
        "--trainer.num_sanity_val_steps", 0, "--trainer.enable_progress_bar", "false", "--data.source.root", drawn_root,
        "--data.source.format", "lastframe", "--data.batch_size", 1,
        "--data.split.num_scenes", "{train: 12, val: 4, test: 4}",
        f"{POLICY}.model", vlm_folder, f"{POLICY}.sampling.max_new_tokens", 8, "--model.init_args.num_completions", 2,
        "--model.init_args.reward.init_args.model", clip_folder, "--model.init_args.judge", "null",
        "--model.init_args.audit", "off", "--checkpoint.monitor", "val/reward", "--plan.preflight", "false",
        "--ckpt_path", "last",
    ]  # fmt: skip
    return [*map(str, fit)]


class Nodes:
    """Two launchers of one process each, which share a folder as nodes share a file system."""

    def __init__(self, command, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            meeting = f"127.0.0.1:{free.getsockname()[1]}"
        launch = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1",
            "--rdzv_backend", "c10d", "--rdzv_endpoint", meeting, "--rdzv_id", meeting, "--local_addr", "127.0.0.1",
            "-m", "lvad.cli",
        ]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        self.logs = [folder / f"node-{node}.log" for node in range(2)]
        self.launchers = []
        for log in self.logs:
            with log.open("a") as said:
                options = {"cwd": folder, "env": environment, "stdout": said, "stderr": subprocess.STDOUT}
                self.launchers.append(subprocess.Popen([*launch, *command], **options))

    def said(self):
        return "\n".join(log.read_text()[-3000:] for log in self.logs)

    def wait_for(self, file):
        end_s = time.monotonic() + LIMIT_S
        while not file.is_file():
            codes = [launcher.poll() for launcher in self.launchers]
            assert codes == [None, None], self.said()
            assert time.monotonic() < end_s, self.said()
            time.sleep(0.02)

    def finish(self):
        codes = [launcher.wait(LIMIT_S) for launcher in self.launchers]
        assert codes == [0, 0], self.said()

    def kill(self):
        """The processes first, for a launcher would end them in peace."""
        for pid in [p for launcher in self.launchers for p in descendants(launcher.pid)]:
            os.kill(pid, signal.SIGKILL)
        for launcher in self.launchers:
            launcher.kill()
            launcher.wait()


def descendants(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [p for child in map(int, children) for p in [*descendants(child), child]]


@pytest.fixture
def start(command):
    started = []

    def nodes(folder):
        folder.mkdir(exist_ok=True)
        started.append(Nodes(command, folder))
        return started[-1]

    yield nodes
    for each in started:
        if any(launcher.poll() is None for launcher in each.launchers):
            each.kill()


def steps_of(run):
    """Of every logged reward."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0}, purge_orphaned_data=True)
    events.Reload()
    return [event.step for event in events.Scalars(tag("reward/mean"))]


@pytest.mark.slow
def test_two_nodes_are_killed_and_go_on(start, tmp_path):
    runs = tmp_path / "logs/rloo"
    nodes = start(tmp_path)
    nodes.wait_for(runs / "version_0/checkpoints/last.ckpt")
    nodes.kill()
    broken = find_interrupted_run(runs)
    assert 0 < broken.step < STEPS
    nodes = start(tmp_path)
    nodes.finish()
    assert f"after {broken.step} steps" in nodes.said()
    (run,) = runs.iterdir()
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == STEPS
    assert steps_of(run) == list(range(STEPS))
    assert (run / "model/model.safetensors").is_file()
