"""The job on BDD-OIA with SmolVLM-256M and ViT-B/32: built with random weights of those very shapes."""

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from tokenizers import AddedToken
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    PreTrainedTokenizerFast,
)

from lvad.assets import CONFIGS
from lvad.commands.embedded import CHAT_TEMPLATE, corpus, train_tokenizer
from lvad.commands.stages import make_cli
from lvad.modules.describing import Description
from lvad.policy.tokens import chat_inputs

BASE_TOKENS, VOCABULARY = 49152, 49280
NUM_PARAMETERS = 256_484_928  # of the published checkpoint
CLIP_PARAMETERS = 151_277_313
GRID = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
SPECIAL = ["<global-img>", *GRID, "<fake_token_around_image>", "<image>"]


def real_layout_tokenizer():
    """The checkpoint's token ids: 49,152 words, then the image tokens, <end_of_utterance> last."""
    backend = train_tokenizer(corpus(20, 0), 400)
    backend.add_tokens([f"<unused{i}>" for i in range(BASE_TOKENS - backend.get_vocab_size())])
    reserved = [f"<reserved{i}>" for i in range(VOCABULARY - 1 - BASE_TOKENS - len(SPECIAL))]
    tokens = [*SPECIAL, *reserved, "<end_of_utterance>"]
    backend.add_special_tokens(
        [AddedToken(f"{t} ".strip(), special=True) for t in tokens if backend.token_to_id(t) is None]
    )
    return backend


@pytest.fixture(scope="module")
def smolvlm_256m(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "SmolVLM-256M"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=real_layout_tokenizer(),
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<pad>",
    )
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    text = {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "vocab_size": VOCABULARY,
        "max_position_embeddings": 8192, "tie_word_embeddings": False, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 512, "patch_size": 16,
    }  # fmt: skip
    config = Idefics3Config(
        text_config=text, vision_config=vision, image_token_id=image_id, scale_factor=4, tie_word_embeddings=False
    )
    with torch.device("meta"):
        model = Idefics3ForConditionalGeneration(config)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
        for buffer in model.buffers():
            buffer.zero_()
    model.save_pretrained(folder)
    images = Idefics3ImageProcessor(size={"longest_edge": 2048}, max_image_size={"longest_edge": 512})
    Idefics3Processor(images, tokenizer, image_seq_len=64, chat_template=CHAT_TEMPLATE).save_pretrained(folder)
    return folder


def test_the_job_is_built_with_the_real_shapes(smolvlm_256m, make_batch, tmp_path):
    untrained = tmp_path / "untrained.yaml"
    untrained.write_text("model: {init_args: {reward: {init_args: {pretrained: null}}}}\n")
    cli = make_cli([
        "--config", str(CONFIGS / "bddoia/rloo.yaml"), "--config", str(untrained),
        "--trainer.accelerator", "cpu", "--trainer.precision", "32-true",
        "--trainer.logger", "false", "--model.init_args.policy.init_args.model", str(smolvlm_256m),
    ])  # fmt: skip
    policy, reward = cli.model.policy, cli.model.reward
    adapters = [p for name, p in policy.named_parameters() if "lora_" in name]
    assert sum(p.numel() for p in policy.parameters()) - sum(p.numel() for p in adapters) == NUM_PARAMETERS
    assert len(adapters) == 2 * 7 * 30
    assert all(p.requires_grad == any(p is a for a in adapters) for p in policy.parameters())
    assert sum(p.numel() for p in reward.parameters()) == CLIP_PARAMETERS
    assert policy.banned.sum() >= len(SPECIAL)
    assert not policy.banned[policy.end_id]

    # 17 tiles of 64 tokens: what the checkpoint's own preprocessing makes of a square frame.
    inputs = chat_inputs(policy.processor, make_batch(1), [policy.prompts.describe])
    assert inputs["pixel_values"].shape == (1, 17, 3, 512, 512)
    assert (inputs["input_ids"] == policy.vlm.config.image_token_id).sum() == 17 * 64


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
    assert (cli.datamodule.batch_size, cli.datamodule.subset, cli.datamodule.seed) == (32, "reward", 42)
    batch = make_batch(1, 1)._replace(actions=torch.eye(4)[:2].long(), reasons=torch.eye(21)[[1, 16]].long())
    module.log = lambda *args, **kwargs: None
    loss = module.training_step(batch, 0)
    loss.backward()
    assert loss.isfinite()
    assert module.clip.clip.visual.conv1.weight.grad.abs().sum() > 0


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
    assert module.describer.style == {"action_sft": None, "two_stage": Description()}[config]
