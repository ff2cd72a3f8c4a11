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
from lvad.commands.embedded_models import CHAT_TEMPLATE, corpus, train_tokenizer

BASE_TOKENS, VOCABULARY = 49152, 49280
GRID = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
SPECIAL = ["<global-img>", *GRID, "<fake_token_around_image>", "<image>"]
GRIDS = {1: 1, 5: 2, 17: 4}
"""Tiles along a side by the tiles of a square image: a grid of tiles and the whole image, or that alone."""


@dataclass(frozen=True)
class Geometry:
    """The shapes of a model."""

    vision: dict[str, int]
    text: dict[str, int]
    scale_factor: int
    """Patches along a side that become one visual token."""

    @property
    def tile_px(self) -> int:
        return self.vision["image_size"]

    @property
    def tokens_per_tile(self) -> int:
        return (self.tile_px // self.vision["patch_size"] // self.scale_factor) ** 2


_TEXT_256M = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "head_dim": 64,
}  # fmt: skip
_TEXT_2B = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 32,
    "num_key_value_heads": 32, "head_dim": 64,
}  # fmt: skip
GEOMETRIES = {
    "smolvlm-256m": Geometry(
        {
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "image_size": 512, "patch_size": 16,
        },
        _TEXT_256M,
        4,
    ),
    "smolvlm-256m-litevision": Geometry(
        {
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 512, "patch_size": 16,
        },
        _TEXT_256M,
        4,
    ),
    # The published one has 49,155 words: 125 rows of the embedding and of the head less.
    "smolvlm-2b": Geometry(
        {
            "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
            "image_size": 384, "patch_size": 14,
        },
        _TEXT_2B,
        3,
    ),
}  # fmt: skip


def real_layout_tokenizer() -> Tokenizer:
    """SmolVLM's token ids: 49,152 words, most of them never produced, the image tokens, <end_of_utterance> last."""
    backend = train_tokenizer(corpus(20, 0), 400)
    backend.add_tokens([f"<unused{i}>" for i in range(BASE_TOKENS - backend.get_vocab_size())])
    reserved = [f"<reserved{i}>" for i in range(VOCABULARY - 1 - BASE_TOKENS - len(SPECIAL))]
    tokens = [*SPECIAL, *reserved, "<end_of_utterance>"]
    backend.add_special_tokens([AddedToken(t, special=True) for t in tokens if backend.token_to_id(t) is None])
    return backend


def make_config(geometry: Geometry, pad_id: int, image_id: int) -> Idefics3Config:
    """Of a model of the geometry."""
    rest = {"model_type": "llama", "vocab_size": VOCABULARY, "max_position_embeddings": 8192}
    return Idefics3Config(
        text_config={**rest, **geometry.text, "tie_word_embeddings": False, "pad_token_id": pad_id},
        vision_config=dict(geometry.vision),
        image_token_id=image_id,
        scale_factor=geometry.scale_factor,
        tie_word_embeddings=False,
    )


def make_smolvlm(
    folder: Path, geometry: Geometry, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0
) -> None:
    """Write a folder with a model of the geometry, SmolVLM's image layout and random weights, drawn on the device."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=real_layout_tokenizer(),
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<pad>",
        padding_side="left",
    )
    with torch.device("meta"):
        config = make_config(geometry, tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids("<image>"))
        model = Idefics3ForConditionalGeneration(config)
    model = model.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_scale = "norm" in name and name.endswith("weight")
            parameter.fill_(1.0) if is_scale else parameter.normal_(0, 0.02, generator=generator)
        for buffer in model.buffers():
            buffer.zero_()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    images = Idefics3ImageProcessor(
        size={"longest_edge": 4 * geometry.tile_px}, max_image_size={"longest_edge": geometry.tile_px}
    )
    processor = Idefics3Processor(
        images, tokenizer, image_seq_len=geometry.tokens_per_tile, chat_template=CHAT_TEMPLATE
    )
    processor.save_pretrained(folder)


def make_folder(name: str, tiles: int, folder: Path, dtype: torch.dtype, device: str = "cpu") -> Path:
    """A model folder whose processor makes so many tiles of a square image.

    Raises:
        ValueError: for a geometry or a number of tiles that there is not.
    """
    if name == "embedded":
        if tiles != 1:
            raise ValueError(f"the embedded model takes 1 tile per image, got {tiles}")
        return resolve_model("embedded/vlm")
    if name not in GEOMETRIES or tiles not in GRIDS:
        raise ValueError(f"no geometry {name!r} with {tiles} tiles; {[*GEOMETRIES, 'embedded']}, {[*GRIDS]}")
    make_smolvlm(folder, GEOMETRIES[name], dtype, device)
    set_tiles(folder, tiles)
    return folder


def set_tiles(folder: Path, tiles: int) -> None:
    """Let the processor of a folder make so many tiles of a square image."""
    processor = AutoProcessor.from_pretrained(folder)
    images = processor.image_processor
    images.do_image_splitting = tiles > 1
    images.size = {"longest_edge": GRIDS[tiles] * images.max_image_size["longest_edge"]}
    processor.save_pretrained(folder)
