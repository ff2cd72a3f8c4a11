"""Strategies on top of stages: every pair of files is one configuration, and shared-out weights come out whole."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lvad.commands.lightning_cli import StageCLI
from lvad.policy import HFPolicy, Lora

ROOT = Path(__file__).parents[1]
STRATEGIES = {path.stem: path for path in (ROOT / "configs/strategy").glob("*.yaml")}
STAGES = ("rloo", "action_sft", "clip_reward")
PAIRS = [(name, stage) for name in STRATEGIES for stage in (("rloo",) if name == "qlora" else STAGES)]
POLICY = "--model.init_args.policy.init_args"


@pytest.mark.parametrize(("strategy", "stage"), PAIRS)
def test_a_strategy_stands_on_top_of_a_stage(strategy, stage, monkeypatch):
    parsed = []
    monkeypatch.setattr(StageCLI, "instantiate_classes", lambda cli: parsed.append(cli.config["fit"]))
    monkeypatch.setattr(StageCLI, "_run_subcommand", lambda cli, name: None)
    from lvad.commands.lightning_cli import make_cli

    make_cli(["--config", str(ROOT / f"configs/bddoia/{stage}.yaml"), "--config", str(STRATEGIES[strategy])], "fit")
    (config,) = parsed
    assert config.trainer.accelerator == "gpu"
    if strategy == "qlora":
        assert config.model.init_args.policy.init_args.in_four_bits
        assert config.model.init_args.optimizer.class_path == "bitsandbytes.optim.PagedAdamW8bit"
    else:
        assert config.trainer.strategy.class_path.startswith("lightning.pytorch.strategies.")
    assert config.model.class_path.startswith("lvad.modules.")


@pytest.mark.slow
def test_a_run_with_shared_out_weights_ends_with_a_whole_model(tmp_path, vlm_folder, clip_folder, drawn_root):
    args = [
        "fit", "--config", "configs/rloo.yaml", "--config", ROOT / "configs/strategy/fsdp.yaml",
        "--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.precision", "32-true",
        "--trainer.strategy.init_args.data_parallel_size", "2", "--trainer.max_steps", "2",
        "--trainer.val_check_interval", "1", "--trainer.limit_val_batches", "1", "--trainer.enable_progress_bar",
        "false", "--data.source.root", drawn_root, "--data.source.format", "lastframe", "--data.batch_size", "2",
        "--data.split.num_scenes", "{train: 8, val: 4, test: 4}", f"{POLICY}.model", vlm_folder,
        f"{POLICY}.sampling.max_new_tokens", "8", "--model.init_args.reward.init_args.model", clip_folder,
        "--model.init_args.judge", "null", "--model.init_args.audit", "warn", "--model.init_args.num_completions", "2",
        "--checkpoint.monitor", "val/reward",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "lvad.cli", *map(str, args)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "logs/rloo/version_0"
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    policy = HFPolicy(str(vlm_folder), lora=Lora(rank=16, alpha=32))
    policy.load_state_dict({name.removeprefix("policy."): value for name, value in best.items()}, strict=False)
    assert all(type(value) is torch.Tensor for value in best.values())
    policy.save_pretrained(tmp_path / "expected")
    found, expected = (load_file(f / "model.safetensors") for f in (run / "model", tmp_path / "expected"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
