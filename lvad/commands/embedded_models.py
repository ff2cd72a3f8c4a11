"""Folders of the embedded models with random weights: real architectures, small sizes, one tokenizer.

Training them is an ordinary run (``configs/pretrain_vlm.yaml``, ``configs/pretrain_clip.yaml``).
"""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import torch
from open_clip import create_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForImageTextToText,
    Idefics3ImageProcessor,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from lvad.data.synthetic import draw_state, scene_captions
from lvad.taxonomy import BDD_OIA
from lvad.text import Prompts, render

IMAGE_SIZE_PX: Final = 128
PATCH_PX: Final = 16
WIDTH: Final = 128
LAYERS: Final = 3
HEADS: Final = 4
PIXEL_SHUFFLE: Final = 2
CONTEXT_LENGTH: Final = 64
IMAGE_TOKENS: Final = (IMAGE_SIZE_PX // PATCH_PX // PIXEL_SHUFFLE) ** 2

PAD, START, END = "<pad>", "<|im_start|>", "<end_of_utterance>"
IMAGE, FAKE, GLOBAL = "<image>", "<fake_token_around_image>", "<global-img>"
SPECIAL: Final = (PAD, START, END, IMAGE, FAKE, GLOBAL)

# SmolVLM-Instruct's own template.
CHAT_TEMPLATE: Final = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def corpus(num_scenes: int, seed: int) -> Iterable[str]:
    """Collect every sentence that the embedded models may have to read or write: synthetic captions, answers."""
    rng = random.Random(seed)
    for _ in range(num_scenes):
        yield from scene_captions(draw_state(rng), rng)
    prompts = Prompts()
    yield from [prompts.describe, prompts.question(BDD_OIA), "User:", "Assistant:"] * 50
    for i in range(BDD_OIA.num_reasons):
        reasons = [int(i == j) for j in range(BDD_OIA.num_reasons)]
        for a in range(BDD_OIA.num_actions):
            yield from [render([int(a == b) for b in range(BDD_OIA.num_actions)], reasons)] * 5


def train_tokenizer(sentences: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE, in which every string can be written."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer


def _token_id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer lacks {token!r}: was it made by 'lvad embedded vlm'?")
    return found


def _fast_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        padding_side="right",
        model_max_length=2048,
        extra_special_tokens={"image_token": IMAGE, "fake_image_token": FAKE, "global_image_token": GLOBAL},
    )


def _processor(tokenizer: Tokenizer) -> Idefics3Processor:
    size = {"longest_edge": IMAGE_SIZE_PX}
    image_processor = Idefics3ImageProcessor(do_image_splitting=False, size=size, max_image_size=size)
    return Idefics3Processor(
        image_processor, _fast_tokenizer(tokenizer), image_seq_len=IMAGE_TOKENS, chat_template=CHAT_TEMPLATE
    )


def _vlm_config(vocab_size: int, ids: dict[str, int]) -> SmolVLMConfig:
    text = {
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2,
        "vocab_size": vocab_size,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True,
        "bos_token_id": ids[START],
        "eos_token_id": ids[END],
        "pad_token_id": ids[PAD],
    }
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "image_size": IMAGE_SIZE_PX,
        "patch_size": PATCH_PX,
    }
    return SmolVLMConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[IMAGE],
        scale_factor=PIXEL_SHUFFLE,
        tie_word_embeddings=True,
    )


def make_vlm(folder: Path, vocab_size: int = 640, num_scenes: int = 4000, seed: int = 0) -> None:
    """Write a small SmolVLM with random weights, its tokenizer and its processor.

    Args:
        folder: where to.
        vocab_size: entries of the byte-level BPE.
        num_scenes: synthetic scenes whose captions the BPE is trained on.
        seed: of the weights; the tokenizer is the same for every seed.
    """
    tokenizer = train_tokenizer(corpus(num_scenes, seed=0), vocab_size)
    ids = {token: _token_id(tokenizer, token) for token in SPECIAL}
    torch.manual_seed(seed)
    model = SmolVLMForConditionalGeneration(_vlm_config(tokenizer.get_vocab_size(), ids))
    model.generation_config.update(bos_token_id=ids[START], eos_token_id=ids[END], pad_token_id=ids[PAD])
    model.save_pretrained(folder)
    _processor(tokenizer).save_pretrained(folder)


def _clip_config(vocab_size: int, eos_id: int, pad_id: int) -> dict:
    half = [0.5, 0.5, 0.5]
    return {
        "model_cfg": {
            "embed_dim": WIDTH,
            "vision_cfg": {
                "image_size": IMAGE_SIZE_PX,
                "patch_size": PATCH_PX,
                "width": WIDTH,
                "layers": LAYERS,
                "head_width": WIDTH // HEADS,
                "no_ln_pre": True,
                "pool_type": "avg",
                "act_kwargs": {"approximate": "tanh"},
                "norm_kwargs": {"eps": 1e-6},
            },
            "text_cfg": {
                "context_length": CONTEXT_LENGTH,
                "vocab_size": vocab_size,
                "hf_tokenizer_name": "local",
                "width": WIDTH,
                "heads": HEADS,
                "layers": 2,
                "pool_type": "eos",
                "eos_id": eos_id,
                "pad_id": pad_id,
            },
        },
        "preprocess_cfg": {"mean": half, "std": half, "interpolation": "bicubic", "resize_mode": "squash"},
    }


def make_clip(folder: Path, vision_from: Path, seed: int = 0) -> None:
    """Write a small open_clip CLIP: the vision encoder of a trained captioner, the rest random.

    A contrastive loss from scratch learns next to nothing in the minutes that a CPU affords, so the vision
    encoder starts from a captioner's. Give a captioner of *another* seed than the policy's, or policy and reward share
    their mistakes.

    Args:
        folder: where to.
        vision_from: folder of a trained captioner made by ``make_vlm``.
        seed: of the random weights.
    """
    captioner = AutoModelForImageTextToText.from_pretrained(vision_from)
    tokenizer = Tokenizer.from_file(str(vision_from / "tokenizer.json"))
    start, end = _token_id(tokenizer, START), _token_id(tokenizer, END)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, start), (END, end)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    _fast_tokenizer(tokenizer).save_pretrained(folder)
    config = _clip_config(tokenizer.get_vocab_size(), end, _token_id(tokenizer, PAD))
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    torch.manual_seed(seed)
    clip: Any = create_model(f"local-dir:{folder}", load_weights=False)
    clip.visual.load_state_dict(
        clip_vision_weights(captioner.model.vision_model.state_dict(), clip.visual.state_dict())
    )
    save_file({k: v.contiguous() for k, v in clip.state_dict().items()}, folder / "open_clip_model.safetensors")


def clip_vision_weights(source: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a SmolVLM vision encoder's weights to open_clip's; the class token becomes zero.

    Args:
        source: state dict of a SmolVLM vision model.
        target: state dict of an open_clip vision encoder of the same sizes; ``proj`` is kept from it.
    """
    out = {
        "class_embedding": torch.zeros(WIDTH),
        "positional_embedding": torch.cat([torch.zeros(1, WIDTH), source["embeddings.position_embedding.weight"]]),
        "conv1.weight": source["embeddings.patch_embedding.weight"],
        "ln_post.weight": source["post_layernorm.weight"],
        "ln_post.bias": source["post_layernorm.bias"],
        "proj": target["proj"],
    }
    # open_clip's patch embedding has no bias: it moves into the positions.
    out["positional_embedding"][1:] += source["embeddings.patch_embedding.bias"]
    for i in range(LAYERS):
        old, new = f"encoder.layers.{i}", f"transformer.resblocks.{i}"
        for kind in ("weight", "bias"):
            out[f"{new}.ln_1.{kind}"] = source[f"{old}.layer_norm1.{kind}"]
            out[f"{new}.ln_2.{kind}"] = source[f"{old}.layer_norm2.{kind}"]
            out[f"{new}.attn.in_proj_{kind}"] = torch.cat([source[f"{old}.self_attn.{p}_proj.{kind}"] for p in "qkv"])
            out[f"{new}.attn.out_proj.{kind}"] = source[f"{old}.self_attn.out_proj.{kind}"]
            out[f"{new}.mlp.c_fc.{kind}"] = source[f"{old}.mlp.fc1.{kind}"]
            out[f"{new}.mlp.c_proj.{kind}"] = source[f"{old}.mlp.fc2.{kind}"]
    return out
