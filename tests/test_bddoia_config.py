"""The job on BDD-OIA with SmolVLM-256M and ViT-B/32: built with random weights of those very shapes."""

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from rloo_bench.geometries import GEOMETRIES, SPECIAL, make_smolvlm

from lvad.answers.describer import DescriptionOptions
from lvad.assets import CONFIGS
from lvad.commands.lightning_cli import make_cli
from lvad.policy.families.idefics3 import TiledFrameEncoder
from lvad.policy.tokens import PromptIds, chat_inputs
from lvad.rewards.clip import CLIP

NUM_PARAMETERS = 256_484_928  # of the published checkpoint
CLIP_PARAMETERS = 151_277_313


@pytest.fixture(scope="module")
def smolvlm_256m(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "SmolVLM-256M"
    make_smolvlm(folder, GEOMETRIES["smolvlm-256m"], torch.bfloat16)
    return folder


@pytest.fixture(scope="module")
def vit_b_32(tmp_path_factory):
    """What configs/bddoia/clip_reward.yaml would leave, untrained: an architecture by name is no judge."""
    folder = tmp_path_factory.mktemp("clip") / "model"
    with pytest.warns(UserWarning, match="random weights"):
        CLIP("ViT-B-32-quickgelu").save_pretrained(folder, "float16")
    return folder


@pytest.mark.slow
def test_the_job_is_built_with_the_real_shapes(smolvlm_256m, vit_b_32, make_batch, tmp_path):
    untrained = tmp_path / "untrained.yaml"
    reward = f"{{init_args: {{model: {vit_b_32}, pretrained: null}}}}"
    untrained.write_text(f"model: {{init_args: {{reward: {reward}, judge: {reward}}}}}\n")
    cli = make_cli([
        "--config", str(CONFIGS / "bddoia/rloo.yaml"), "--config", str(untrained),
        "--trainer.accelerator", "cpu", "--trainer.precision", "32-true",
        "--trainer.logger", "false", "--model.init_args.policy.init_args.model", str(smolvlm_256m),
    ])  # fmt: skip
    policy, reward = cli.model.policy, cli.model.reward
    adapters = [p for name, p in policy.named_parameters() if "lora_" in name]
    assert sum(p.numel() for p in policy.parameters()) - sum(p.numel() for p in adapters) == NUM_PARAMETERS
    assert len(adapters) == 2 * 7 * 30
    assert {p.dtype for p in adapters} == {torch.float32}
    assert {p.dtype for p in policy.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert all(p.requires_grad == any(p is a for a in adapters) for p in policy.parameters())
    assert sum(p.numel() for p in reward.parameters()) == CLIP_PARAMETERS
    assert policy.banned.sum() >= len(SPECIAL)
    assert not policy.banned[policy.end_id]

    # 10 tiles of 64 tokens: a square frame is scaled to 1,536 and not, as the checkpoint's own settings say, to 2,048.
    inputs = chat_inputs(policy.processor, make_batch(1), [policy.prompts.describe])
    assert inputs["pixel_values"].shape == (1, 10, 3, 512, 512)
    assert (inputs["input_ids"] == policy.vlm.config.image_token_id).sum() == 10 * 64
    prompt_ids = PromptIds(policy.processor, TiledFrameEncoder(policy.processor))
    ids, _ = prompt_ids(policy.prompts.describe, make_batch(1).frames[0])
    assert ids.tolist() == inputs["input_ids"][0].tolist()
    # Of the data set's own frames, as docs/scale.md has it.
    assert policy.prompt_ids.frame_encoder.tiling.num_tiles(720, 1280) == 7
    assert policy.prompt_ids.num_frame_tokens(720, 1280) == 468


@pytest.mark.slow
def test_the_papers_reward_is_built_and_takes_a_step(make_batch, tmp_path):
    """Appendix B with random weights of ViT-B/32: AdamW 2e-5 / 0.01, plateau, early stopping, batch 32."""
    untrained = tmp_path / "untrained.yaml"
    untrained.write_text("model: {init_args: {clip: {init_args: {pretrained: null}}}}\n")
    cli = make_cli([
        "--config", str(CONFIGS / "bddoia/clip_reward.yaml"), "--config", str(untrained),
        "--trainer.accelerator", "cpu", "--trainer.logger", "false",
    ])  # fmt: skip
    module = cli.model
    assert sum(p.numel() for p in module.parameters()) == CLIP_PARAMETERS
    made = module.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (2e-5, 0.01)
    assert (schedule["monitor"], schedule["scheduler"].factor, schedule["scheduler"].patience) == ("val/auroc", 0.2, 3)
    stopper = next(c for c in cli.trainer.callbacks if isinstance(c, EarlyStopping))
    assert (stopper.patience, stopper.monitor) == (7, "val/auroc")
    assert (cli.datamodule.batch_size, cli.datamodule.split.subset, cli.datamodule.seed) == (32, "reward", 42)
    batch = make_batch(1, 1)._replace(actions=torch.eye(4)[:2].long(), reasons=torch.eye(21)[[1, 16]].long())
    module.log = lambda *args, **kwargs: None
    loss = module.training_step(batch, 0)
    loss.backward()
    assert loss.isfinite()
    assert module.clip.clip.visual.conv1.weight.grad.abs().sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("config", ["action_sft", "two_stage"])
def test_the_papers_second_stage_is_built_with_the_real_shapes(smolvlm_256m, config):
    """Section 5.3: AdamW 1e-4 / 0.01, 4 x 4 scenes, 10 epochs for the baseline and 3 for stage 2."""
    cli = make_cli([
        "--config", str(CONFIGS / f"bddoia/{config}.yaml"), "--trainer.accelerator", "cpu", "--trainer.precision",
        "32-true", "--trainer.logger", "false", "--model.init_args.policy.init_args.model", str(smolvlm_256m),
    ])  # fmt: skip
    module, trainer = cli.model, cli.trainer
    optimizer = module.configure_optimizers()
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (1e-4, 0.01)
    assert cli.datamodule.batch_size * trainer.accumulate_grad_batches == 16
    assert trainer.max_epochs == {"action_sft": 10, "two_stage": 3}[config]
    # The paper's own configurations leave every help against always-stop off.
    assert (module.logit_adjustment, module.objective.class_weights) == (0, False)
    assert module.describer.style == {"action_sft": None, "two_stage": DescriptionOptions()}[config]
