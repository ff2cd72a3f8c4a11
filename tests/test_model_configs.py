"""Models on top of stages: every pair of files is one configuration, and what a file says of its model is true."""

import re
from pathlib import Path

import open_clip
import pytest

from lvad.commands.lightning_cli import StageCLI, make_cli
from lvad.policy import Lora

ROOT = Path(__file__).parents[1]
MODELS = sorted((ROOT / "configs/models").glob("*.yaml"))
CLIPS = [path for path in MODELS if path.stem.startswith(("clip", "siglip"))]
POLICIES = [path for path in MODELS if path not in CLIPS]
STAGES = ("rloo", "action_sft", "two_stage")
PAIRS = [
    *((path, stage) for path in POLICIES for stage in STAGES),
    *((path, "clip_reward") for path in CLIPS),
]


@pytest.mark.parametrize(("path", "stage"), PAIRS, ids=lambda part: getattr(part, "stem", part))
def test_a_model_stands_on_top_of_a_stage(path, stage, monkeypatch):
    parsed = []
    monkeypatch.setattr(StageCLI, "instantiate_classes", lambda cli: parsed.append(cli.config["fit"]))
    monkeypatch.setattr(StageCLI, "_run_subcommand", lambda cli, name: None)
    make_cli(["--config", str(ROOT / f"configs/bddoia/{stage}.yaml"), "--config", str(path)], "fit")
    (config,) = parsed
    assert config.model.class_path.startswith("lvad.modules.")
    if path in CLIPS:
        chosen = config.model.init_args.clip.init_args
        assert (chosen.model, chosen.pretrained) in open_clip.list_pretrained()
        return
    policy = config.model.init_args.policy.init_args
    assert policy.model.count("/") == 1
    assert policy.dtype == "bfloat16"
    assert policy.freeze_vision
    assert policy.lora.targets == Lora().targets
    is_tiled = "SmolVLM" in policy.model
    assert (policy.images.longest_edge_px is not None) == is_tiled
    assert (policy.images.max_tokens is None) == is_tiled


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_file_names_its_command_its_memory_and_its_licence(path):
    comment = "".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    stage = "clip_reward" if path in CLIPS else "rloo"
    assert f"lvad fit --config configs/bddoia/{stage}.yaml --config configs/models/{path.name}" in comment
    assert re.search(r"\d GB of a", comment)
    assert "Licence: " in comment
