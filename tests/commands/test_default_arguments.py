"""What a short command line is completed to."""

import os
from pathlib import Path

import pytest
import torch

from lvad.assets import CONFIGS
from lvad.commands.default_arguments import complete_arguments
from lvad.errors import DataError


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """An older and a newer run, and a configuration of nobody's."""
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(("new", "old")):
        folder = Path("logs/rloo") / name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").write_text("ckpt_path: null\n")
        for checkpoint in ("best", "last"):
            path = folder / f"checkpoints/{checkpoint}.ckpt"
            torch.save({"state_dict": {}, "global_step": 1}, path)
            os.utime(path, (1000 - age, 1000 - age))
    Path("a.yaml").write_text("seed_everything: 1\n")
    return Path("logs/rloo")


def test_the_path_wins_over_the_configurations_and_an_option_over_the_path(runs):
    """jsonargparse reads from left to right: a file behind ``--data.source.root`` would bring its own data back."""
    Path("c.yaml").write_text("{}")
    given = [
        "street.jpg",
        "--config",
        "a.yaml",
        "--ckpt_path",
        "b",
        "--config=c.yaml",
        "--data.source.format",
        "lastframe",
    ]
    wanted = [
        "--config", "a.yaml", "--config", "c.yaml", "--data.source.format", "frames",
        "--data.source.root", "street.jpg", "--ckpt_path", "b", "--data.source.format", "lastframe",
    ]  # fmt: skip
    assert complete_arguments("predict", given) == wanted
    for place in (3, 5, 6, 8):  # the path may stand anywhere
        assert complete_arguments("predict", [*given[1:place], "street.jpg", *given[place:]]) == wanted
    assert complete_arguments("predict", ["--config", "a.yaml", "--ckpt_path", "b"]) == [
        "--config",
        "a.yaml",
        "--ckpt_path",
        "b",
    ]


def test_out_is_the_folder_of_the_predictions(runs):
    for out in (["--out", "there"], ["--out=there"]):
        found = complete_arguments("predict", [*out, "street.jpg", "--config", "a.yaml", "--ckpt_path", "b"])
        assert found[-2:] == ["--predictions.folder", "there"]
        assert not {*out} & {*found[:-2]}


@pytest.mark.parametrize("command", ["validate", "test"])
def test_the_folder_of_a_run_brings_its_configuration_and_its_best_checkpoint(runs, command):
    found = complete_arguments(command, ["--data.num_workers", "0", str(runs / "old")])
    config, checkpoint = runs / "old" / "config.yaml", runs / "old" / "checkpoints" / "best.ckpt"
    assert found == ["--config", str(config), "--data.num_workers", "0", "--ckpt_path", str(checkpoint)]
    with pytest.raises(DataError, match=r"logs/rloo: is no folder of a run: it has no config.yaml"):
        complete_arguments(command, [str(runs)])
    with pytest.raises(DataError, match="takes one run folder, got 2"):
        complete_arguments(command, [str(runs / "old"), str(runs / "new")])


def test_several_paths_are_refused(runs):
    with pytest.raises(DataError, match=r"one picture, video or folder of them, got 2: \['a.jpg', 'b.jpg'\]"):
        complete_arguments("predict", ["a.jpg", "b.jpg"])


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_without_either_the_newest_run_is_taken(runs, command, capsys):
    before, behind = ["--config", "logs/rloo/new/config.yaml"], ["--ckpt_path", "logs/rloo/new/checkpoints/best.ckpt"]
    assert complete_arguments(command, ["--seed_everything", "3"]) == [*before, "--seed_everything", "3", *behind]
    assert capsys.readouterr().out == "lvad: run logs/rloo/new, checkpoint best.ckpt\n"
    last = complete_arguments(command, ["--ckpt_path", "last"])
    assert last == [*before, "--ckpt_path", "logs/rloo/new/checkpoints/last.ckpt"]


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_a_checkpoint_brings_the_configuration_beside_it(runs, command):
    checkpoint = "logs/rloo/old/checkpoints/best.ckpt"
    for given in (["--ckpt_path", checkpoint], [f"--ckpt_path={checkpoint}"]):
        assert complete_arguments(command, given) == ["--config", str((runs / "old/config.yaml").resolve()), *given]
    (runs / "old/config.yaml").unlink()
    with pytest.raises(DataError, match=r"best.ckpt: there is no config.yaml of its run .*; name the .* with --config"):
        complete_arguments(command, ["--ckpt_path", checkpoint])
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at logs/none.ckpt"):
        complete_arguments(command, ["--ckpt_path", "logs/none.ckpt"])
    with pytest.raises(DataError, match="is an address"):
        complete_arguments(command, ["--ckpt_path", "http://localhost:9/x.ckpt"])


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_the_configuration_of_a_run_brings_its_best_checkpoint(runs, command):
    config = ["--config", "logs/rloo/old/config.yaml"]
    Path(config[1]).write_text("ckpt_path: logs/rloo/old/checkpoints/last.ckpt")  # as one that was resumed
    assert complete_arguments(command, config) == [*config, "--ckpt_path", "logs/rloo/old/checkpoints/best.ckpt"]
    (runs / "old/checkpoints/best.ckpt").unlink()
    assert complete_arguments(command, config) == [*config, "--ckpt_path", "logs/rloo/old/checkpoints/last.ckpt"]


@pytest.mark.parametrize("command", ["test", "validate"])
def test_an_untrained_model_is_evaluated_where_that_is_asked_for_alone(runs, command):
    with pytest.raises(DataError, match=rf"a.yaml: lvad {command} without a checkpoint is one of the model before its"):
        complete_arguments(command, ["--config", "a.yaml"])
    for asked in (["--ckpt_path", "null"], ["--ckpt_path=null"]):
        assert complete_arguments(command, ["--config", "a.yaml", *asked]) == ["--config", "a.yaml", *asked]
    with pytest.raises(DataError, match="give one with --config"):
        complete_arguments(command, ["--ckpt_path", "null"])
    Path("a.yaml").write_text("ckpt_path: mine.ckpt")
    assert complete_arguments(command, ["--config", "a.yaml"]) == ["--config", "a.yaml"]


def test_a_description_by_an_untrained_model_says_so(runs, capsys):
    complete_arguments("predict", ["--config", "a.yaml", "street.jpg"])
    assert capsys.readouterr().out == "lvad: no checkpoint: describing with the model as a.yaml names it\n"


def test_without_a_run_the_embedded_model_describes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert complete_arguments("predict", ["a.jpg"])[:2] == ["--config", str(CONFIGS / "rloo.yaml")]
    assert "no run under logs/ yet" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="no finished run"):
        complete_arguments("test", [])


def test_help_and_fit_are_left_alone(runs):
    assert complete_arguments("test", ["--help"]) == ["--help"]
    given = ["--config", "a.yaml", "--ckpt_path", "last", "--print_config"]
    assert complete_arguments("fit", given) == given
    with pytest.raises(FileNotFoundError, match=r"no configuration at 'none.yaml'"):
        complete_arguments("fit", ["--config", "none.yaml"])
    Path("a.yaml").write_text("seed_everything: 1", encoding="utf-16")
    with pytest.raises(DataError, match=r"a.yaml: is a configuration in utf-16; save it as UTF-8"):
        complete_arguments("fit", ["--config", "a.yaml"])
