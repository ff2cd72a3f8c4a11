"""Loading a pretrained model and its processor; files may come from anyone, so no code of theirs is run."""

from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from lvad.assets import loading
from lvad.policy.autograd_functions import patch_gates, patch_norms
from lvad.policy.families import FAMILIES
from lvad.policy.four_bits import four_bit_config, keep_packed_weights
from lvad.policy.passes import ATTENTION
from lvad.policy.tokens import end_tokens

TEXT_MODEL_TYPES: Final = ("llama", "qwen2", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3", "qwen3_vl_text")
"""Text models whose layers ``TokenPass`` can compute."""
_POSITIONS: Final = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose angles depend only on the position. Those of other kinds depend on the length of the input,
and a prompt and its completions are separate inputs here."""
_MAX_LAYERS: Final = 1000
"""Of text model or vision encoder. All layers are built before any weight is read: a false number would take hours."""
_PARAMETERS_PER_BYTE: Final = 2  # at 4 bits each


def load_vlm(source: str, dtype: str, in_four_bits: bool = False) -> tuple[Any, Any]:
    """Load a transformers model and its processor; weights are read from safetensors only, never from pickles.

    Args:
        source: a folder or a hub name.
        dtype: of the weights, as transformers names them.
        in_four_bits: quantise the linear layers of the text model.

    Raises:
        ValueError: for files that cannot be read or lack weights, a model type without a known layout, or one with
            dropout.
    """
    with loading(source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    _check_type(source, config)
    _check_text(source, config.text_config)
    _check_model_size(source, config)
    family = FAMILIES[config.model_type]
    load: Any = AutoModelForImageTextToText.from_pretrained
    with loading(source):
        vlm, report = load(
            source,
            dtype=getattr(torch, dtype),
            attn_implementation={"": "sdpa", "text_config": ATTENTION, "vision_config": family.vision_attention},
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **({"quantization_config": four_bit_config(getattr(torch, dtype), family.vision)} if in_four_bits else {}),
        )
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"model {source!r} lacks {len(missing)} weights, such as {missing[:3]}; restore its files")
    keep_packed_weights(vlm)
    patch_norms(vlm)
    patch_gates(vlm)
    _check_tokenizer(source, getattr(processor, "tokenizer", None), config.text_config.vocab_size)
    _check_frame_tokens(source, config)
    _set_end_tokens(source, vlm, processor.tokenizer, config.text_config.vocab_size)
    return vlm, processor


def _check_type(source: str, config: Any) -> None:
    if config.model_type not in FAMILIES:
        raise ValueError(f"model {source!r} is of type {config.model_type!r}; known: {', '.join(FAMILIES)}")
    if config.text_config.model_type not in TEXT_MODEL_TYPES:
        kind = config.text_config.model_type
        raise ValueError(f"model {source!r} has a text model of type {kind!r}; known: {', '.join(TEXT_MODEL_TYPES)}")


def _check_text(source: str, config: Any) -> None:
    """Refuse text models whose log-probabilities would be wrong without an error."""
    if config.attention_dropout:
        raise ValueError(f"model {source!r} has attention dropout, of which its sampler's distribution knows nothing")
    kinds = set(getattr(config, "layer_types", None) or []) - {"full_attention"}
    if kinds:
        raise ValueError(f"model {source!r} has layers of {', '.join(sorted(kinds))}; known: full_attention")
    positions = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if positions not in _POSITIONS:
        raise ValueError(f"model {source!r} has {positions} rotary positions; known: {', '.join(_POSITIONS)}")


def _check_model_size(source: str, config: Any) -> None:
    """Refuse a configuration of more parameters than the files hold: transformers would allocate memory for them."""
    depths = [getattr(config.vision_config, name, 0) for name in ("num_hidden_layers", "depth")]
    num_layers = max(config.text_config.num_hidden_layers, *depths)
    if num_layers > _MAX_LAYERS:
        raise ValueError(f"model {source!r} says that it has {num_layers} layers, more than {_MAX_LAYERS}")
    if not Path(source).is_dir():
        return
    with loading(source), torch.device("meta"):
        num_parameters = sum(p.numel() for p in AutoModelForImageTextToText.from_config(config).parameters())
    num_bytes = sum(file.stat().st_size for file in Path(source).glob("*.safetensors"))
    if num_parameters > _PARAMETERS_PER_BYTE * num_bytes:
        problem = f"says that it has {num_parameters:,} parameters, its safetensors hold {num_bytes:,} bytes"
        raise ValueError(f"model {source!r} {problem}; restore its files")


def _check_tokenizer(source: str, tokenizer: Any, vocab_size: int) -> None:
    if tokenizer is None or tokenizer.eos_token_id is None:
        raise ValueError(f"model {source!r} has no tokenizer with an end token; restore its files")
    if None in tokenizer.all_special_ids:
        raise ValueError(f"model {source!r} names special tokens that its tokenizer lacks; restore its files")
    if len(tokenizer) > vocab_size:
        sizes = f"{len(tokenizer)} tokens for a vocabulary of {vocab_size}"
        raise ValueError(f"model {source!r} has a tokenizer of {sizes}; restore its files")


def _check_frame_tokens(source: str, config: Any) -> None:
    for name in ("image_token_id", "video_token_id"):
        token, last = getattr(config, name, None), config.text_config.vocab_size - 1
        if token is not None and not (isinstance(token, int) and 0 <= token <= last):
            problem = f"names {token!r:.80} as {name}, its vocabulary has the ids 0 to {last}"
            raise ValueError(f"model {source!r} {problem}; correct config.json")


def _set_end_tokens(source: str, vlm: Any, tokenizer: Any, vocab_size: int) -> None:
    """Set the end tokens in the generation config, which is saved with the model."""
    end_ids = end_tokens(tokenizer, vlm.generation_config)
    _check_ends(source, end_ids, vocab_size)
    vlm.generation_config.eos_token_id = end_ids[0] if len(end_ids) == 1 else list(end_ids)


def _check_ends(source: str, end_ids: tuple[Any, ...], vocab_size: int) -> None:
    for end_id in end_ids:
        if not isinstance(end_id, int) or not 0 <= end_id < vocab_size:
            wrong = f"names {end_id!r} as an end token, its vocabulary has the ids 0 to {vocab_size - 1}"
            raise ValueError(f"model {source!r} {wrong}; correct eos_token_id in generation_config.json")
