"""Fits of two steps of the shipped configurations on random weights, and the options that tests vary."""

import contextlib

from lvad.cli import main

POLICY = "--model.init_args.policy.init_args"
LEARN = "--model.init_args.optimizer.init_args.lr"
LORA = [f"{POLICY}.lora", "{rank: 4, alpha: 8}", f"{POLICY}.freeze_vision", "true"]
WHOLE = [f"{POLICY}.freeze_vision", "false"]  # as the configurations of the second stage have it

JUDGED = {
    "rloo": ["--model.init_args.judge", "null", "--model.init_args.audit", "off",
             "--model.init_args.num_completions", "2", "--checkpoint.monitor", "val/reward"],
    "action_sft": ["--model.init_args.judge", "null", f"{POLICY}.sampling.max_new_tokens", "40"],
    "two_stage": ["--model.init_args.judge", "null", "--model.init_args.constrain", "false"],
    "study/reader": ["--model.init_args.num_completions", "2",
                     "--data.split.budget", "null", "--data.split.rest", "drop"],
}  # fmt: skip


def run_here(*args, cwd):
    """Run lvad in a folder, in this process, which spares the seconds that a new one imports for."""
    with contextlib.chdir(cwd):
        assert main([*map(str, args)]) == 0


def small_fit(stage, root, vlm, clip, data, *options):
    """Train, and return the run's folder.

    Args:
        stage: name of a configuration.
        root: where its logs go.
        vlm: folder of the policy.
        clip: folder of the reward.
        data: folder of a drawn set.
        options: further ones of ``lvad fit``.
    """
    args = [
        "fit", "--config", f"configs/{stage}.yaml", "--data.source.root", data, "--data.source.format", "lastframe",
        "--data.split.num_scenes", "{train: 8, val: 4, test: 4}", "--data.batch_size", "4", "--trainer.max_epochs", "1",
        "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.num_sanity_val_steps", "0",
        "--trainer.val_check_interval", "1.0", "--trainer.check_val_every_n_epoch", "1",
        "--trainer.logger.init_args.save_dir", root, "--trainer.logger.init_args.name", stage,
    ]  # fmt: skip
    if stage in JUDGED:
        args += [f"{POLICY}.model", vlm, f"{POLICY}.sampling.max_new_tokens", "10", *JUDGED[stage]]
    if stage in ("rloo", "clip_reward"):
        part = "reward" if stage == "rloo" else "clip"
        args += [f"--model.init_args.{part}.init_args.model", clip]
    assert main([*map(str, args), *map(str, options)]) == 0
    return root / stage / "version_0"
