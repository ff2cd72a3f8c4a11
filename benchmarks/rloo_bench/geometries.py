"""Models with the shapes of published checkpoints and random weights, and prompts of given lengths."""

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer
from transformers import (
    AutoProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    PreTrainedTokenizerFast,
)

from lvad.assets import resolve_model
from lvad.commands.embedded import CHAT_TEMPLATE, corpus, train_tokenizer

BASE_TOKENS, VOCABULARY = 49152, 49280
GRID = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
SPECIAL = ["<global-img>", *GRID, "<fake_token_around_image>", "<image>"]
TILE_PX = 512
LONGEST_EDGE_PX = {1: TILE_PX, 5: 2 * TILE_PX, 17: 4 * TILE_PX}
"""Tiles of a square image by the size it is scaled to: a grid of tiles and the whole image, or that alone."""


@dataclass(frozen=True)
class Geometry:
    """The tower of a model; the text model is always that of SmolVLM-256M."""

    vision: dict[str, int]


GEOMETRIES = {
    "smolvlm-256m": Geometry(
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    ),
    "smolvlm-256m-litevision": Geometry(
        {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    ),
}
TEXT = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "vocab_size": VOCABULARY,
    "max_position_embeddings": 8192, "tie_word_embeddings": False,
}  # fmt: skip


def real_layout_tokenizer() -> Tokenizer:
    """SmolVLM's token ids: 49,152 words, most of them never produced, the image tokens, <end_of_utterance> last."""
    backend = train_tokenizer(corpus(20, 0), 400)
    backend.add_tokens([f"<unused{i}>" for i in range(BASE_TOKENS - backend.get_vocab_size())])
    reserved = [f"<reserved{i}>" for i in range(VOCABULARY - 1 - BASE_TOKENS - len(SPECIAL))]
    tokens = [*SPECIAL, *reserved, "<end_of_utterance>"]
    backend.add_special_tokens([AddedToken(t, special=True) for t in tokens if backend.token_to_id(t) is None])
    return backend


def make_smolvlm(folder: Path, geometry: Geometry, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
    """Write a folder with SmolVLM-256M's text model and image layout, random weights, and a tower of the geometry."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=real_layout_tokenizer(),
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<pad>",
        padding_side="left",
    )
    config = Idefics3Config(
        text_config={**TEXT, "pad_token_id": tokenizer.pad_token_id},
        vision_config={**geometry.vision, "image_size": TILE_PX, "patch_size": 16},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=4,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = Idefics3ForConditionalGeneration(config)
    model = model.to(dtype).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_scale = "norm" in name and name.endswith("weight")
            parameter.fill_(1.0) if is_scale else parameter.normal_(0, 0.02, generator=generator)
        for buffer in model.buffers():
            buffer.zero_()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    images = Idefics3ImageProcessor(size={"longest_edge": 4 * TILE_PX}, max_image_size={"longest_edge": TILE_PX})
    Idefics3Processor(images, tokenizer, image_seq_len=64, chat_template=CHAT_TEMPLATE).save_pretrained(folder)


def make_folder(name: str, tiles: int, folder: Path, dtype: torch.dtype) -> Path:
    """A model folder whose processor makes so many tiles of a square image.

    Raises:
        ValueError: for a geometry or a number of tiles that there is not.
    """
    if name == "embedded":
        if tiles != 1:
            raise ValueError(f"the embedded model takes 1 tile per image, got {tiles}")
        return resolve_model("embedded/vlm")
    if name not in GEOMETRIES or tiles not in LONGEST_EDGE_PX:
        raise ValueError(f"no geometry {name!r} with {tiles} tiles; {[*GEOMETRIES, 'embedded']}, {[*LONGEST_EDGE_PX]}")
    make_smolvlm(folder, GEOMETRIES[name], dtype)
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor.do_image_splitting = tiles > 1
    processor.image_processor.size = {"longest_edge": LONGEST_EDGE_PX[tiles]}
    processor.save_pretrained(folder)
    return folder
