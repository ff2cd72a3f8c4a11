"""What ``lvad.load`` takes, and how it refuses the rest."""

import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

import lvad
from lvad.errors import DataError


def test_importing_lvad_loads_no_heavy_library():
    code = (
        "import sys, lvad\n"
        "assert callable(lvad.__getattr__) and 'load' in lvad.__all__ and 'load' in dir(lvad)\n"
        "heavy = {'torch', 'transformers', 'lightning', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_of_the_interface_is_there():
    assert all(getattr(lvad, name) is not None for name in lvad.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        lvad.lode  # noqa: B018


def test_a_run_its_checkpoint_and_its_folder_say_the_same(lora_run, drawn_frames):
    run = lvad.load(lora_run)
    assert (run.kind, run.abilities) == ("RLOOPolicy", ("describe", "score", "sample"))
    said = run.describe(drawn_frames)
    best = lvad.load(lora_run / "checkpoints" / "best.ckpt")
    assert best.describe(drawn_frames) == said
    assert lvad.load(lora_run, checkpoint="last").kind == "RLOOPolicy"


def test_an_exported_model_says_what_its_run_says(lora_run, tmp_path, drawn_frames):
    from lvad.cli import main

    assert main(["export", str(lora_run), str(tmp_path / "driver")]) == 0
    exported = lvad.load(tmp_path / "driver")
    assert (exported.kind, exported.abilities) == ("HFPolicy", ("describe", "sample"))
    assert exported.describe(drawn_frames) == lvad.load(lora_run).describe(drawn_frames)


def test_a_clip_by_itself_scores(clip_folder, drawn_frames):
    clip = lvad.load(clip_folder)
    assert clip.abilities == ("score",)
    same, other = clip.score(drawn_frames, ["The road is clear.", "It is night."])
    assert same.total == same.terms["clip"] != other.total


def test_a_tuned_clip_scores_as_the_model_that_it_exports(clip_run, drawn_frames):
    texts = ["The road is clear.", "123"]
    tuned, exported = lvad.load(clip_run), lvad.load(clip_run / "model")
    found, expected = tuned.score(drawn_frames, texts), exported.score(drawn_frames, texts)
    assert [s.total for s in found] == pytest.approx([s.total for s in expected], abs=1e-6)
    assert all(0 <= s.terms["match_probability"] <= 1 for s in found)


def test_loading_leaves_the_process_as_it_was(lora_run, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    expected = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    lvad.load(lora_run)
    assert (torch.rand(1), random.random(), np.random.rand()) == expected
    assert os.environ["PL_GLOBAL_SEED"] == "7"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds neither config.yaml of a run, nor config.json"),
        ({"reader.json": "{}"}, "a reader judges texts by labels, not by frames; load the run folder"),
        ({"adapter_config.json": "{}"}, "holds adapters without their model; .*export without --adapter"),
    ],
)
def test_a_folder_that_cannot_be_asked_is_named(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"{tmp_path}: {message}"):
        lvad.load(tmp_path)


def test_what_is_not_there_is_named(tmp_path, lora_run):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*none\.ckpt"):
        lvad.load(tmp_path / "none.ckpt")
    with pytest.raises(FileNotFoundError, match=r"no model folder at .*nowhere"):
        lvad.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"https://a\.org/x is an address; download it"):
        lvad.load("https://a.org/x")
    with pytest.raises(DataError, match=r"config\.yaml: is no checkpoint of lvad"):
        lvad.load(lora_run / "config.yaml")
    shutil.copy(lora_run / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    with pytest.raises(DataError, match=r"no config\.yaml of its run .*checkpoint="):
        lvad.load(tmp_path / "alone.ckpt")
    assert lvad.load(lora_run, checkpoint=str(tmp_path / "alone.ckpt")).kind == "RLOOPolicy"


def test_a_checkpoint_that_holds_code_is_refused(lora_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(lora_run, run)
    torch.save({"state_dict": {}, "global_step": 0, "more": os.system}, run / "checkpoints" / "best.ckpt")
    with pytest.raises(DataError, match=r"best\.ckpt: is no checkpoint that can be read"):
        lvad.load(run)


def test_safe_refuses_a_class_of_somebody_else(lora_run, tmp_path, monkeypatch, capsys):
    """As ``lvad --safe`` does; without it the class is named before it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "mine_api.py").write_text("from lvad.rewards import CLIPCosine\n\nclass Mine(CLIPCosine):\n    pass\n")
    run = tmp_path / "run"
    shutil.copytree(lora_run, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["init_args"]["reward"]["class_path"] = "mine_api.Mine"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(DataError, match=r"asks for mine_api\.Mine, which is refused: --safe imports only lvad"):
        lvad.load(run, safe=True)
    assert "mine_api" not in sys.modules
    assert lvad.load(run).abilities == ("describe", "score", "sample")
    assert "asks for mine_api.Mine, which is not of lvad or its libraries" in capsys.readouterr().err


def test_an_export_with_a_broken_prompt_is_named(vlm_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(vlm_folder, folder)
    (folder / "prompts.json").write_text(json.dumps({"describe": 3}))
    with pytest.raises(DataError, match=r"prompts\.json: must hold the text that the model is asked as 'describe'"):
        lvad.load(folder)
