"""The study on BDD-OIA: its plan, and the data of each stage on the release's own label files.

The pictures cannot be shipped: one grey picture stands in for all of them, so nothing is trained here.
"""

import json
import os
import shlex

import pytest
import yaml
from PIL import Image

from lvad.assets import CONFIGS
from lvad.cli import main
from lvad.commands.study_plan import make_plan, read_study
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.recordings import recording_of_id
from lvad.data.source import Source
from lvad.data.split import Split

STUDY = CONFIGS / "study/bddoia.yaml"
WITH_LABELS = ("action_sft", "two_stage", "clip_reward")


@pytest.fixture(scope="module")
def bddoia(shared_data, tmp_path_factory):
    """The release's label files, and a picture of every scene that is none."""
    root = tmp_path_factory.mktemp("data") / "BDD-OIA"
    (root / "images").mkdir(parents=True)
    Image.new("RGB", (1280, 720), "gray").save(root / "gray.jpg")
    for path in sorted((shared_data / "bddoia_annotations").glob("gt_4a_21r_*.json")):
        os.symlink(path, root / path.name)
        for name in json.loads(path.read_text()):
            os.symlink(root / "gray.jpg", root / "images" / f"{name}.jpg")
    return root


def data_of(stage, root, seed=0, **split):
    given = yaml.safe_load((CONFIGS / f"study/bddoia/{stage}.yaml").read_text())["data"]
    source = Source(**given.pop("source") | {"root": str(root)})
    split = Split(**given.pop("split") | split)
    data = BDDOIADataModule(source, split, **given | {"num_workers": 0, "seed": seed})
    data.setup()
    return data


def labelled(data):
    return {scene.id for scene in data.scenes["train"] if scene.actions is not None}


def drives(scenes):
    return {recording_of_id(scene.id) for scene in scenes}


@pytest.mark.slow
def test_every_stage_has_the_same_labels_and_no_recording_of_a_test_scene(bddoia):
    stages = {stage: data_of(stage, bddoia, seed=3, budget=100) for stage in WITH_LABELS}
    chosen = labelled(stages["action_sft"])
    assert len(chosen) == 100
    for data in stages.values():
        assert labelled(data) == chosen
        assert {split: len(scenes) for split, scenes in data.scenes.items()} == {"train": 100, "val": 0, "test": 2236}
        assert not drives(data.scenes["train"]) & drives(data.scenes["test"])
    assert chosen < labelled(data_of("action_sft", bddoia, seed=3, budget=400))
    batch = next(iter(stages["two_stage"].train_dataloader()))
    assert [tuple(frames.shape) for frames in batch.frames] == [(1, 3, 720, 1280)] * 4
    assert (batch.actions >= 0).all()


@pytest.mark.slow
def test_reinforcement_learning_sees_every_scene_and_no_label(bddoia):
    data = data_of("rloo", bddoia)
    assert (len(data.scenes["train"]), labelled(data), data.scenes["val"]) == (7358, set(), [])
    batch = next(iter(data.train_dataloader()))
    assert (batch.actions == -1).all()
    assert (batch.reasons == -1).all()
    assert set(data.stage_ledger("RLOOPolicy")) == {"RLOOPolicy train, unlabelled"}


def test_the_plan_runs_what_is_common_once_and_says_what_it_costs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["study", "--config", str(STUDY), "--dry-run", "--parallel", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # 5 seeds x (4 budgets x 6 arms of one stage at each + 2 shared + 2 budgets x 3 stages).
    assert lines[-2] == "160 stages for 130 cells, of which 0 are done"
    assert lines[-1].startswith("to do: 160 stages, ")
    assert lines[-1].endswith(" with 8 at a time")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_every_command_is_understood(tmp_path, capsys):
    """Parsed against the constructors; a stage of 2 B says which model, or stands on one that does."""
    plan = make_plan(read_study(STUDY), seeds=[0], budgets=[100])
    assert len(plan.jobs) == 11
    seen = set()
    for job in plan.jobs.values():
        if job.name in seen:
            continue
        seen.add(job.name)
        with pytest.raises(SystemExit) as done:
            main([*job.command, "--print_config"])
        printed = capsys.readouterr()
        assert done.value.code == 0, (shlex.join(job.command), printed.err)
        given = yaml.safe_load(printed.out)
        assert given["data"]["split"]["budget"] == (0 if "rloo" in job.name else 100)
        if "policy" in given["model"]["init_args"]:
            model = given["model"]["init_args"]["policy"]["init_args"]["model"]
            assert model.endswith("/model") or ("2.2B" in model) == job.name.endswith("_2b")
