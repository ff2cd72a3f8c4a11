"""The reward's stage on the command line: fit, test, audit, and on to the main job."""

import json

import pytest
from PIL import Image
from small_fits import run_here
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_cli import run

from lvad.cli import main

SMALL = [
    "--data.source.root", "drawn", "--data.split.num_scenes", "{train: 32, val: 16, test: 16}",
    "--data.source.drawing_seed", "0", "--trainer.max_epochs", "1",
    "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu",
]  # fmt: skip


pytestmark = pytest.mark.slow  # the fixture runs fits for more than a minute


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A small run of the shipped configuration, tested."""
    cwd = tmp_path_factory.mktemp("reward")
    done = run("fit", "--config", "configs/clip_reward.yaml", *SMALL, cwd=cwd)
    run_here("test", cwd=cwd)
    return cwd, done


def test_fit_says_what_to_do_next(tuned):
    cwd, done = tuned
    last = done.stdout.strip().splitlines()[-1]
    model = "logs/clip_reward/version_0/model"
    assert f"next: lvad audit --reward {model}" in last
    assert (cwd / model / "open_clip_model.safetensors").is_file()


def test_the_run_folder_holds_numbers_tables_and_pictures(tuned):
    folder = tuned[0] / "logs/clip_reward/version_0"
    metrics = json.loads((folder / "metrics.json").read_text())
    names = ("auroc", "auroc_floor", "auroc_per_text", "accuracy", "precision", "recall", "f1", "loss")
    assert {f"{stage}/{name}" for stage in ("val", "test") for name in names} <= set(metrics)
    assert {"val/auroc_start", "time/fit_s"} <= set(metrics)
    lines = (folder / "tables.md").read_text().splitlines()
    assert lines[0] == "## Table 1: similarity before and after tuning"
    assert lines[2].count("|") == 8
    assert [line.split(" | ")[0] for line in lines[-2:]] == ["| image vs. '123'", "| image vs. 'abc'"]
    for picture in ("loss_curve.png", "val_confusion_roc.png", "test_confusion_roc.png"):
        assert Image.open(folder / picture).width >= 900
    board = EventAccumulator(str(folder), size_guidance={"images": 0})
    board.Reload()
    assert {"curves/loss", "val/confusion_roc", "test/confusion_roc"} <= set(board.Tags()["images"])


def test_the_folder_it_writes_is_a_reward(tuned):
    cwd, _ = tuned
    model = "logs/clip_reward/version_0/model"
    done = run("audit", "--reward", model, "--root", "drawn", "--json", cwd=cwd, check=False)
    found = json.loads(done.stdout)
    assert done.returncode == (found["verdict"] == "fail")
    assert found["probes"]["digits"]["verdict"] in ("pass", "fail")
    small = ["--data.split.num_scenes", "{train: 16, val: 16, test: 16}", "--model.init_args.num_completions", "2"]
    options = [*SMALL[:2], *small, *SMALL[6:], "--model.init_args.audit", "warn"]
    reward = ["--model.init_args.reward.init_args.model", model]
    done = run("fit", "--config", "configs/rloo.yaml", *options, *reward, cwd=cwd)
    assert "reward audit on 16 scenes (caption)" in done.stderr


def test_a_reward_that_is_not_tuned_is_refused_in_one_line(tuned, clip_folder):
    """Random weights cannot tell right from wrong."""
    cwd, _ = tuned
    small = ["--data.split.num_scenes", "{train: 16, val: 16, test: 16}"]
    reward = ["--model.init_args.reward.init_args.model", clip_folder]
    done = run("fit", "--config", "configs/rloo.yaml", *SMALL[:2], *small, *SMALL[6:], *reward, cwd=cwd, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("lvad: error: the reward cannot tell right from wrong on 16 validation scenes")
    assert "set model.init_args.audit to warn" in last


def test_a_set_drawn_with_another_seed_is_refused(tuned, monkeypatch, capsys):
    cwd, _ = tuned
    monkeypatch.chdir(cwd)
    assert main(["fit", "--config", "configs/clip_reward.yaml", *SMALL[:4], *SMALL[6:]]) == 1
    assert "drawn with seed 0, drawing_seed is 42; delete the folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.init_args.clip.init_args.model", "."], "is no open_clip folder: it holds no open_clip_config.json"),
        (["--model.init_args.clip.init_args.model", "./nothing"], "no model folder at './nothing'"),
        (["--model.init_args.losses.bce", "-1"], "losses must be >= 0"),
        (["--model.init_args.kind", "output", "--data.split.unlabelled", "true"], "text kind 'output' needs"),
        (
            ["--data.split.num_scenes.train", "0"],
            "no train scenes; choose a source with that split, or raise num_scenes",
        ),
    ],
)
def test_what_cannot_be_learnt_from_ends_in_one_line(options, message, tuned, monkeypatch, capsys):
    monkeypatch.chdir(tuned[0])
    assert main(["fit", "--config", "configs/clip_reward.yaml", *SMALL, *options]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("lvad: error: ")
    assert message in last
