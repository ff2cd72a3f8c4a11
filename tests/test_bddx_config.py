"""The runs on BDD-X: built with random weights, and one step on a drawn video."""

import json

import pytest
import torch
import yaml
from layouts import write_video

from lvad.assets import CONFIGS
from lvad.commands.lightning_cli import make_cli

POLICY = "--model.init_args.policy.init_args"
QUESTION = "What does the car do, and why?"


@pytest.fixture
def build(vlm_folder, clip_folder, tmp_path):
    """A run on two spans of a video that train and two that validate, with tiny models."""
    write_video(tmp_path / "a.mp4", 25, fps=4)
    row = {"video": "a.mp4", "text": "It is night."}
    rows = [row | {"id": f"{split}{i}", "split": split, "end_s": 6} for split in ("train", "val") for i in range(2)]
    (tmp_path / "scenes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = tmp_path / "small.yaml"  # whose frames have no tiles to leave out
    small.write_text("model: {init_args: {policy: {init_args: {images: {splitting: null}}}}}")
    judges = tmp_path / "judges.yaml"
    judge = f"{{init_args: {{model: {clip_folder}, pretrained: null}}}}"
    judges.write_text(f"model: {{init_args: {{reward: {judge}, judge: {judge}}}}}")

    def make(stage):
        judged = ["--config", str(judges)] if stage == "rloo" else []
        cli = make_cli([
            "--config", str(CONFIGS / f"bddx/{stage}.yaml"), "--config", str(small), *judged,
            "--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.logger", "false",
            f"{POLICY}.model", str(vlm_folder), "--data.source.root", str(tmp_path / "scenes.jsonl"),
            "--data.num_workers", "0",
        ])  # fmt: skip
        cli.model.log = cli.model.log_dict = lambda *args, **kwargs: None
        cli.model._trainer = None
        cli.datamodule.setup()
        return cli

    return make


def check_frames(batch):
    """Four frames, two seconds apart, up to the end of the span: at 4 frames per second the 0th, 8th, 16th and 24th."""
    assert [round(frame.float().mean().item() / 10) for frame in batch.frames[0]] == [0, 8, 16, 24]


def check_gradients(module, loss):
    assert loss.isfinite()
    loss.backward()
    adapters = [p for name, p in module.policy.named_parameters() if "lora_B" in name]
    assert sum(float(p.grad.abs().sum()) for p in adapters if p.grad is not None) > 0


def test_the_caption_stage_is_built_and_learns_the_sentences_of_a_video(build):
    cli = build("caption_sft")
    module, data = cli.model, cli.datamodule
    assert (module.target, cli.trainer.accumulate_grad_batches * data.batch_size) == ("caption", 16)
    assert module.policy.prompts.describe == QUESTION
    (batch,) = data.train_dataloader()
    check_frames(batch)
    supervised = module._supervised_batch(batch)
    assert supervised.texts == [["It is night."]] * 2
    check_gradients(module, module.objective.loss(module.policy, supervised)[0])
    with torch.no_grad():
        module.validation_step(batch, 0)
    assert set(module.captions.compute()) == {"bleu4", "rouge_l"}


def test_rloo_is_built_and_takes_a_step_on_spans_without_their_texts(build):
    cli = build("rloo")
    module, data = cli.model, cli.datamodule
    assert module.policy.prompts.describe == QUESTION
    assert (module.num_completions, module.kl.config.beta, module.audit) == (8, 0.05, "warn")
    assert module.judge is not module.reward
    assert not [name for name, p in module.named_parameters() if p.requires_grad and "lora_" not in name]
    (batch,) = data.train_dataloader()
    check_frames(batch)
    assert batch.captions == [(), ()]
    logged = {}
    module.log_dict = lambda values, **_: logged.update(values)
    check_gradients(module, module.training_step(batch, 0)["loss"])
    assert {"reward/clip", "train/kl", "advantage/std"} <= set(logged)
    (held_out,) = data.val_dataloader()
    assert held_out.captions == [("It is night.",)] * 2  # for the audit
    module.validation_step(held_out, 0)
    assert {"reward", "judge"} <= set(module.greedy_scores.compute())


def test_both_stages_see_the_same_of_a_span():
    """What RLOO exports is asked the same question about the same frames by the caption stage."""
    rloo, captions = (yaml.safe_load((CONFIGS / f"bddx/{stage}.yaml").read_text()) for stage in ("rloo", "caption_sft"))
    assert rloo["data"]["source"] == captions["data"]["source"]
    policies = [stage["model"]["init_args"]["policy"]["init_args"] for stage in (rloo, captions)]
    for key in ("model", "dtype", "prompts", "images"):
        assert policies[0][key] == policies[1][key]
