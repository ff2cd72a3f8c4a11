"""What a signal leaves: a checkpoint, one line that says how to go on, the exit code that a scheduler knows."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lvad.callbacks.step_seeds import StepSeeds
from lvad.cli import main
from lvad.commands.signals import StopSignals
from lvad.data.ledger import read_ledger
from lvad.errors import DataError
from lvad.modules import CLIPReward


@pytest.fixture(autouse=True)
def from_a_terminal():
    """As a shell starts a command in the foreground; one in the background ignores Ctrl-C, and so do its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def arguments(clip_folder, drawn_root, tmp_path, monkeypatch):
    """Two steps of a reward on random weights, validated behind the second."""
    monkeypatch.chdir(tmp_path)
    return [
        "fit", "--config", "configs/clip_reward.yaml", "--data.source.root", str(drawn_root),
        "--data.source.format", "lastframe",
        "--data.split.num_scenes", "{train: 8, val: 4, test: 4}", "--data.batch_size", "4", "--trainer.max_epochs", "1",
        "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
        "--trainer.num_sanity_val_steps", "0", "--model.init_args.clip.init_args.model", str(clip_folder),
    ]  # fmt: skip


def send_at(monkeypatch, kind, hook, number):
    """Send a real signal at the first call of a hook."""
    whole, sent = getattr(kind, hook), []

    def sends(self, *args):
        if not sent:
            sent.append(number)
            os.kill(os.getpid(), number)
        return whole(self, *args)

    monkeypatch.setattr(kind, hook, sends)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_fit_behind_its_step(arguments, number, tmp_path, monkeypatch, capfd):
    whole = [*arguments, "--trainer.logger.init_args.name", "whole"]
    assert main(whole) == 0
    with monkeypatch.context() as patched:
        send_at(patched, StepSeeds, "on_train_batch_start", number)
        assert main(arguments) == 128 + number
    run = tmp_path / "logs/clip_reward/version_0"
    said = capfd.readouterr().err
    assert f"lvad: {number.name}: finishing this step, then writing last.ckpt" in said
    again = said.strip().splitlines()[-1]
    last = "logs/clip_reward/version_0/checkpoints/last.ckpt"
    assert again.startswith(f"lvad: stopped by {number.name}; {last} is of step 1; to go on: lvad fit --config ")
    assert {"ledger.json", "config.yaml"} <= {path.name for path in run.iterdir()}
    assert not (run / "model").exists()
    assert main(shlex.split(again.partition("to go on: lvad ")[2])) == 0
    assert [path.name for path in (tmp_path / "logs/clip_reward").iterdir()] == ["version_0"]
    weights = [
        torch.load(tmp_path / f"logs/{name}/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("clip_reward", "whole")
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert read_ledger(run) == read_ledger(tmp_path / "logs/whole/version_0") == read_ledger(run / "model")


@pytest.mark.slow
def test_all_devices_stop_at_one_step_and_one_goes_on(arguments, tmp_path, capfd):
    """The signal reaches the first process alone. 2 scenes on each device were seen, 4 of 8 are left."""
    arguments[arguments.index("--data.batch_size") + 1] = "2"
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    script = Path(__file__).with_name("ended_rank.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, str(script), *arguments, *two], capture_output=True, text=True, timeout=500, env=environment
    )
    assert done.returncode == 143, done.stderr[-3000:]
    assert done.stderr.count("stopped by SIGTERM; logs/clip_reward/version_0/checkpoints/last.ckpt is of step 1") == 1
    checkpoint = tmp_path / "logs/clip_reward/version_0/checkpoints/last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    assert content["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["seen"] == 4
    assert main([*arguments, "--ckpt_path", "last"]) == 0
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 3


def test_before_the_first_step_there_is_nothing_to_keep(arguments, tmp_path, monkeypatch, capfd):
    send_at(monkeypatch, CLIPReward, "validation_step", signal.SIGTERM)
    assert main([*arguments, "--trainer.num_sanity_val_steps", "-1", "--data.eval_batch_size", "2"]) == 143
    assert "stopped by SIGTERM before its first checkpoint; to start anew: lvad fit --config" in capfd.readouterr().err
    assert not list((tmp_path / "logs/clip_reward").iterdir())


def test_elsewhere_a_signal_ends_at_once(capsys):
    with pytest.raises(SystemExit) as stopped, StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == stop.code == 143
    assert stop.exit_message(["test"]) == "stopped by SIGTERM"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.received is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_command_to_go_on_with_names_one_checkpoint(tmp_path):
    stop = StopSignals()
    stop.received, stop.checkpoint, stop.step = signal.SIGINT, tmp_path / "a b.ckpt", 7
    words = shlex.split(stop.exit_message(["fit", "--ckpt_path=x", "--config", "c", "--ckpt_path", "y", "--seed", "1"]))
    assert words[-7:] == ["fit", "--config", "c", "--seed", "1", "--ckpt_path", f"{tmp_path}/a b.ckpt"]


def test_a_short_run_leaves_what_a_test_finds(arguments, tmp_path, capfd):
    assert main([*arguments, "--trainer.max_steps", "1"]) == 0
    assert capfd.readouterr().out.strip().endswith("next: lvad audit --reward logs/clip_reward/version_0/model, then "
        "give that folder to reward.init_args.model of configs/rloo.yaml")  # fmt: skip
    assert main(["test", "--trainer.enable_progress_bar", "false"]) == 0
    metrics = json.loads((tmp_path / "logs/clip_reward/version_0/metrics.json").read_text())
    assert "test/auroc" in metrics


@pytest.mark.slow
def test_without_a_logger_a_run_lies_where_it_is_looked_for(arguments, tmp_path, capfd):
    arguments += ["--trainer.logger", "false"]
    assert main([*arguments, "--trainer.max_steps", "1"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    assert main([*arguments, "--ckpt_path", "last"]) == 0
    assert main(arguments) == 0
    runs = sorted((tmp_path / "logs/CLIPReward").iterdir())
    assert [run.name for run in runs] == ["version_0", "version_1"]
    names = {"checkpoints", "config.yaml", "ledger.json", "loss_curve.png", "metrics.json", "model"}
    assert all(names <= {path.name for path in run.iterdir()} for run in runs)
    assert main(["test", "--trainer.enable_progress_bar", "false"]) == 0
    assert "lvad: run logs/CLIPReward/version_1" in capfd.readouterr().out


def test_a_fit_that_is_refused_leaves_no_folder(arguments, tmp_path, monkeypatch, capfd):
    def refuses(*args):
        raise DataError("not today")

    monkeypatch.setattr(CLIPReward, "on_fit_start", refuses)
    assert main(arguments) == 1
    assert "lvad: error: not today" in capfd.readouterr().err
    assert not list((tmp_path / "logs/clip_reward").iterdir())
