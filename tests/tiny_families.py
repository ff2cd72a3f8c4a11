"""A tiny model of each family: transformers' own classes and processor, random weights, a tokenizer of bytes."""

from pathlib import Path
from typing import Any

import torch
import transformers as t
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

FAMILIES = (
    "smolvlm", "idefics3", "llava_onevision", "internvl", "internvl_qwen3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"
)  # fmt: skip
"""Names for ``make_family``: the type of the model, and of another text model than the usual one."""

CHAT = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
GRID = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
WORDS = {
    "qwen": (*CHAT, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    "internvl": (*CHAT, "<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
    "llava": (*CHAT, "<image>", "<video>"),
    "idefics": (*CHAT, "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *GRID),
}
IMAGE = {"qwen": "<|image_pad|>", "internvl": "<IMG_CONTEXT>", "llava": "<image>", "idefics": "<image>"}
VIDEO = {"qwen": "<|video_pad|>", "internvl": "<video>", "llava": "<video>"}
WRITTEN = {
    "qwen": "<|vision_start|><|image_pad|><|vision_end|>", "internvl": "<IMG_CONTEXT>\\n", "llava": "<image>",
    "idefics": "<image>",
}  # fmt: skip
NAMES = {
    "internvl": {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    "idefics": {
        "image_token": "<image>", "fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    },
}  # fmt: skip
WIDTH = 64
TEXT = {
    "vocab_size": 288, "hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096, "bos_token_id": None,
}  # fmt: skip


def make_family(name: str, folder: Path, seed: int = 0, **text: Any) -> None:
    """Write the folder of a model, as a hub has it.

    Args:
        name: one of ``FAMILIES``, or ``llava``, which the page on extending adds.
        folder: where to.
        seed: of the weights.
        text: changes of the text model's configuration.
    """
    kind = next((kind for kind in ("qwen", "internvl", "llava") if name.startswith(kind)), "idefics")
    tokenizer = _tokenizer(kind)
    places = {"image_token_id": tokenizer.convert_tokens_to_ids(IMAGE[kind])}
    if kind in VIDEO:
        places["video_token_id"] = tokenizer.convert_tokens_to_ids(VIDEO[kind])
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    make = {"qwen": _qwen, "internvl": _internvl, "llava": _llava, "idefics": _idefics}[kind]
    config, processor = make(name, TEXT | ends | text, places, tokenizer, _chat_template(kind))
    torch.manual_seed(seed)
    vlm = t.AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in vlm.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.5 / parameter[0].numel() ** 0.5)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    vlm.tie_weights()
    vlm.save_pretrained(folder)
    processor.save_pretrained(folder)


def _tokenizer(kind: str) -> Any:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.add_special_tokens(list(WORDS[kind]))
    return t.PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        extra_special_tokens=NAMES.get(kind, {}),
    )  # fmt: skip


def _chat_template(kind: str) -> str:
    return (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% for c in m.content %}{% if c.type == 'image' %}"
        "{{ '" + WRITTEN[kind] + "' }}{% else %}{{ c.text }}{% endif %}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


def _idefics(name: str, text: dict[str, Any], places: dict[str, int], tokenizer: Any, chat: str) -> tuple[Any, Any]:
    vision = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    kinds = t.SmolVLMConfig if name == "smolvlm" else t.Idefics3Config
    config = kinds(
        text_config={"model_type": "llama", **text}, vision_config=vision, scale_factor=2, tie_word_embeddings=True,
        image_token_id=places["image_token_id"], pad_token_id=text["pad_token_id"],
    )  # fmt: skip
    eyes = t.Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return config, t.Idefics3Processor(eyes, tokenizer, image_seq_len=4, chat_template=chat)


def _qwen(name: str, text: dict[str, Any], places: dict[str, int], tokenizer: Any, chat: str) -> tuple[Any, Any]:
    places |= {
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    }
    parts = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    size = {"shortest_edge": 32 * 32, "longest_edge": 256 * 256}
    eyes = t.Qwen2VLImageProcessor(size=size)
    if name == "qwen2_vl":
        vision = {"depth": 3, "embed_dim": 32, "hidden_size": WIDTH, "num_heads": 2, "mlp_ratio": 2}
        config = t.Qwen2VLConfig(text_config={"rope_parameters": parts, **text}, vision_config=vision, **places)
        return config, t.Qwen2VLProcessor(eyes, tokenizer, t.Qwen2VLVideoProcessor(), chat_template=chat)
    if name == "qwen2_5_vl":
        vision = {"depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": WIDTH,
                  "window_size": 56, "fullatt_block_indexes": [1, 3]}  # fmt: skip
        config = t.Qwen2_5_VLConfig(
            text_config={"rope_parameters": parts, **text}, vision_config=vision, tie_word_embeddings=True, **places
        )
        return config, t.Qwen2_5_VLProcessor(eyes, tokenizer, t.Qwen2VLVideoProcessor(), chat_template=chat)
    parts |= {"mrope_section": [4, 4, 4], "mrope_interleaved": True}
    vision = {"depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": WIDTH,
              "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 2]}  # fmt: skip
    config = t.Qwen3VLConfig(
        text_config={"rope_parameters": parts, "head_dim": 24, **text}, vision_config=vision, **places
    )
    eyes = t.Qwen2VLImageProcessor(size=size, patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return config, t.Qwen3VLProcessor(eyes, tokenizer, t.Qwen3VLVideoProcessor(), chat_template=chat)


def _internvl(name: str, text: dict[str, Any], places: dict[str, int], tokenizer: Any, chat: str) -> tuple[Any, Any]:
    own = {"model_type": "qwen3", "head_dim": 24} if name.endswith("qwen3") else {"model_type": "qwen2"}
    vision = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48,
              "image_size": 56, "attention_bias": True}  # fmt: skip
    image = places["image_token_id"]
    config = t.InternVLConfig(text_config=own | text, vision_config=vision, image_token_id=image, image_seq_length=4)
    eyes = t.GotOcr2ImageProcessor(size={"height": 56, "width": 56}, max_patches=6)
    return config, t.InternVLProcessor(
        eyes, tokenizer, t.InternVLVideoProcessor(), image_seq_length=4, chat_template=chat
    )


def _llava(name: str, text: dict[str, Any], places: dict[str, int], tokenizer: Any, chat: str) -> tuple[Any, Any]:
    if name == "llava":
        return _llava_one_piece(text, places, tokenizer, chat)
    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "num_hidden_layers": 3, "patch_size": 14,
              "num_attention_heads": 2, "intermediate_size": 48, "image_size": 42,
              "vision_use_head": False}  # fmt: skip
    grid = [[42, 42], [42, 84], [84, 42], [84, 84]]
    config = t.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **text}, vision_config=vision, image_token_index=places["image_token_id"],
        video_token_index=places["video_token_id"], image_grid_pinpoints=grid,
    )  # fmt: skip
    eyes = t.LlavaOnevisionImageProcessor(size={"height": 42, "width": 42}, image_grid_pinpoints=grid)
    return config, t.LlavaOnevisionProcessor(
        eyes, tokenizer, t.LlavaOnevisionVideoProcessor(), num_image_tokens=9, chat_template=chat,
        vision_feature_select_strategy="full", image_token="<image>", video_token="<video>",
    )  # fmt: skip


def _llava_one_piece(text: dict[str, Any], places: dict[str, int], tokenizer: Any, chat: str) -> tuple[Any, Any]:
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "num_hidden_layers": 3, "patch_size": 14,
              "num_attention_heads": 2, "intermediate_size": 48, "image_size": 28}  # fmt: skip
    config = t.LlavaConfig(
        text_config={"model_type": "llama", **text}, vision_config=vision, image_token_index=places["image_token_id"],
        image_seq_length=4,
    )  # fmt: skip
    eyes = t.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return config, t.LlavaProcessor(
        eyes, tokenizer, patch_size=14, vision_feature_select_strategy="default", chat_template=chat,
        num_additional_image_tokens=1,
    )  # fmt: skip
