"""Keys of earlier versions: refused with their new name, wherever they stand."""

import inspect
from argparse import ArgumentError
from pathlib import Path

import pytest
import torch
import yaml

from lvad.cli import main
from lvad.commands.pipeline_config import read_pipeline
from lvad.commands.renamed_keys import RENAMED, check_arguments, check_keys
from lvad.commands.study_plan import read_study
from lvad.commands.trained_run import load_run
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.source import Source
from lvad.data.split import Split
from lvad.errors import DataError

OLD = {"model": {"class_path": "lvad.modules.ActionSFT"}, "data": {"root": "drawn", "budget": 4, "batch_size": 2}}
SAID = "data.root is now data.source.root, data.budget is now data.split.budget"


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_every_key_of_the_data_has_a_new_place_or_its_old_one():
    groups = {"data.source": Source, "data.split": Split, "data": BDDOIADataModule}
    known = {f"{name}.{key}" for name, kind in groups.items() for key in inspect.signature(kind).parameters}
    assert {new for old, new in RENAMED.items() if old.startswith("data.")} == {
        key for key in known if key.count(".") == 2
    }
    assert not known & RENAMED.keys()
    assert len(inspect.signature(BDDOIADataModule).parameters) <= 10


@pytest.mark.parametrize("key", ["data.root", "data.num_drawn.train", "model.init_args.rehearsal.init_args.data.root"])
def test_a_key_is_found_where_it_stands(key):
    old = "data.num_drawn" if "num_drawn" in key else "data.root"
    nested = {key.rpartition(".")[0]: {key.rpartition(".")[2]: 1}}
    for content in ({key: 1}, nested):
        with pytest.raises(DataError) as caught:
            check_keys(content, "mine.yaml")
        assert str(caught.value) == f"mine.yaml: {old} is now {RENAMED[old]}; rename the keys"


def test_a_key_of_a_stage_is_refused_with_its_new_name():
    said = "model.controls is now model.regularisation"
    with pytest.raises(DataError, match=said):
        check_keys({"model": {"class_path": "x", "init_args": {"controls": {"updates": 2}}}}, "mine.yaml")
    with pytest.raises(ArgumentError, match=said):
        check_arguments(["fit", "--model.init_args.controls.updates", "2"])


@pytest.mark.parametrize(("old", "new"), [("clip", "clip_epsilon"), ("reward_clip", "reward_limit")])
def test_a_key_of_the_regularisation_is_refused_with_its_new_name(old, new):
    said = f"model.regularisation.{old} is now model.regularisation.{new}"
    content = {"model": {"class_path": "x", "init_args": {"regularisation": {"updates": 2, old: 0.2}}}}
    with pytest.raises(DataError) as caught:
        check_keys(content, "mine.yaml")
    assert str(caught.value) == f"mine.yaml: {said}; rename the keys"
    with pytest.raises(ArgumentError) as refused:
        check_arguments(["fit", f"--model.init_args.regularisation.{old}", "0.2"])
    assert str(refused.value) == said
    check_keys({"model": {"init_args": {"regularisation": {new: 0.2}, "clip": {}}}}, "mine.yaml")


def test_what_has_kept_its_name_is_let_pass():
    check_keys({"data": {"source": {"root": "x"}, "seed": 1}, "data.split.budget": None, "model.root": 1}, "mine.yaml")
    check_keys(None, "empty.yaml")


@pytest.mark.parametrize("option", [["--data.budget", "4"], ["--data.budget=4"]])
def test_an_option_is_refused_with_its_new_name(option):
    with pytest.raises(ArgumentError, match=r"^data\.budget is now data\.split\.budget$"):
        check_arguments(["fit", "--seed_everything", "1", *option])
    check_arguments(["fit", "--out", "data.budget", "--data.split.budget", "4"])


def test_a_command_says_it_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = write(tmp_path / "old.yaml", OLD)
    assert main(["fit", "--config", str(config)]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"lvad: error: {config}: {SAID}; rename the keys"
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", "configs/action_sft.yaml", "--data.root", "drawn"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == "lvad: error: data.root is now data.source.root"


@pytest.mark.parametrize("command", ["test", "predict", "export"])
def test_a_run_of_before_is_refused_with_the_new_names(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    config = write(tmp_path / "logs" / "rloo" / "version_0" / "config.yaml", OLD)
    checkpoint = config.parent / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir()
    torch.save({"state_dict": {}, "global_step": 3}, checkpoint)
    if command == "export":
        with pytest.raises(DataError, match=SAID):
            load_run(config.parent)
    else:
        assert main([command, "--ckpt_path", str(checkpoint)]) == 1
        assert capsys.readouterr().err.splitlines()[-1] == f"lvad: error: {config}: {SAID}; rename the keys"


def test_overrides_are_refused_before_anything_runs(tmp_path):
    write(tmp_path / "mine.yaml", {"seed_everything": 0})
    stage = {"name": "sft", "config": str(tmp_path / "mine.yaml"), "overrides": {"data.budget": "{budget}"}}
    arm = write(tmp_path / "arm.yaml", {"stages": [stage]})
    study = {"budgets": [5], "seeds": [0], "arms": {"sft": str(arm)}}
    said = r"arm\.yaml, stage 'sft': data\.budget is now data\.split\.budget; rename the keys"
    with pytest.raises(DataError, match=said):
        read_study(write(tmp_path / "study.yaml", study))
    write(arm, {"stages": [{**stage, "overrides": {}}]})
    with pytest.raises(DataError, match=r"study\.yaml, extra_test: data\.root is now data\.source\.root"):
        read_study(write(tmp_path / "study.yaml", {**study, "extra_test": {"data.root": "far"}}))
    pipeline = {"stages": [{**stage, "overrides": {"data.num_scenes": {"train": 4}}}], "compare": {}}
    with pytest.raises(
        DataError, match=r"pipeline\.yaml, stage 'sft': data\.num_scenes is now data\.split\.num_scenes"
    ):
        read_pipeline(write(tmp_path / "pipeline.yaml", pipeline))
