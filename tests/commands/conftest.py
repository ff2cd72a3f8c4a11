"""Runs to export, made once."""

import pytest
from exporting import LEARN, LORA, POLICY

from lvad.cli import main


@pytest.fixture(scope="package")
def fit(tmp_path_factory, vlm_folder, clip_folder, drawn_root):
    """Two steps of a shipped configuration on random weights; the run's folder."""
    small = [
        "--data.source.root", drawn_root, "--data.source.format", "lastframe",
        "--data.split.num_scenes", "{train: 8, val: 4, test: 4}",
        "--data.batch_size", "4", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu",
        "--trainer.enable_progress_bar", "false", "--trainer.num_sanity_val_steps", "0",
        "--trainer.val_check_interval", "1.0", "--trainer.check_val_every_n_epoch", "1",
    ]  # fmt: skip
    policy = [f"{POLICY}.model", vlm_folder, f"{POLICY}.sampling.max_new_tokens", "10"]
    judged = {
        "rloo": ["--model.init_args.reward.init_args.model", clip_folder, "--model.init_args.judge", "null",
                 "--model.init_args.audit", "off", "--model.init_args.num_completions", "2",
                 "--checkpoint.monitor", "val/reward"],
        "action_sft": ["--model.init_args.judge", "null", f"{POLICY}.sampling.max_new_tokens", "40"],
        "two_stage": ["--model.init_args.judge", "null", "--model.init_args.constrain", "false"],
    }  # fmt: skip

    def run(stage, *options):
        root = tmp_path_factory.mktemp("logs")
        args = ["fit", "--config", f"configs/{stage}.yaml", *small, "--trainer.logger.init_args.save_dir", root]
        args += (
            [*policy, *judged[stage]] if stage in judged else ["--model.init_args.clip.init_args.model", clip_folder]
        )
        assert main([*map(str, args), *map(str, options)]) == 0
        return root / stage / "version_0"

    return run


@pytest.fixture(scope="package")
def lora_run(fit):
    return fit("rloo", *LORA, LEARN, "0.05")


@pytest.fixture(scope="package")
def clip_run(fit):
    return fit("clip_reward", "--model.init_args.wise_ft", "[0.5]")


@pytest.fixture(scope="package")
def exported(lora_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "driver"
    assert main(["export", str(lora_run), str(folder)]) == 0
    return folder
