"""The run on BDD-X: built with random weights, and one step on a drawn video."""

import json

import torch
from layouts import write_video

from lvad.assets import CONFIGS
from lvad.commands.lightning_cli import make_cli


def test_the_run_is_built_and_learns_the_sentences_of_a_video(vlm_folder, tmp_path):
    write_video(tmp_path / "a.mp4", 25, fps=4)
    row = {"video": "a.mp4", "text": "It is night."}
    rows = [row | {"id": f"{split}{i}", "split": split, "end_s": 6} for split in ("train", "val") for i in range(2)]
    (tmp_path / "scenes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = tmp_path / "small.yaml"  # whose frames have no tiles to leave out
    small.write_text("model: {init_args: {policy: {init_args: {images: {splitting: null}}}}}")
    cli = make_cli([
        "--config", str(CONFIGS / "bddx/caption_sft.yaml"), "--trainer.accelerator", "cpu",
        "--trainer.precision", "32-true", "--trainer.logger", "false",
        "--model.init_args.policy.init_args.model", str(vlm_folder),
        "--config", str(small), "--data.source.root", str(tmp_path / "scenes.jsonl"),
        "--data.num_workers", "0",
    ])  # fmt: skip
    module, data = cli.model, cli.datamodule
    assert (module.target, cli.trainer.accumulate_grad_batches * data.batch_size) == ("caption", 16)
    assert module.policy.prompts.describe == "What does the car do, and why?"
    data.setup()
    (batch,) = data.train_dataloader()
    # Four frames, two seconds apart, up to the end of the span: at 4 frames per second the 0th, 8th, 16th and 24th.
    assert [round(frame.float().mean().item() / 10) for frame in batch.frames[0]] == [0, 8, 16, 24]
    module.log = module.log_dict = lambda *args, **kwargs: None
    module._trainer = None
    supervised = module._supervised_batch(batch)
    assert supervised.texts == [["It is night."]] * 2
    loss, _ = module.objective.loss(module.policy, supervised)
    loss.backward()
    adapters = [p for name, p in module.policy.named_parameters() if "lora_B" in name]
    assert loss.isfinite()
    assert sum(float(p.grad.abs().sum()) for p in adapters if p.grad is not None) > 0
    with torch.no_grad():
        module.validation_step(batch, 0)
    assert set(module.captions.compute()) == {"bleu4", "rouge_l"}
