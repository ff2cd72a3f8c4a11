"""A frozen base in 4 bits under trained adapters (QLoRA, Dettmers et al. 2023, arXiv:2305.14314)."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

if TYPE_CHECKING:
    from peft import PeftModel


def four_bits(dtype: torch.dtype, vision: Sequence[str]) -> BitsAndBytesConfig:
    """The text model's linear layers as normal floats of 4 bits, multiplied in ``dtype``.

    What the text model reads and how it speaks stay whole. The head's rounding would be in every probability, and some
    models share its weights with the embedding, which looks rows up; SmolVLM-256M and 500M have a head of their own.

    Args:
        dtype: of products.
        vision: names of what makes visual tokens.
    """
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        # Named after 8 bits, it holds for 4 bits too.
        llm_int8_skip_modules=[*(f"model.{name}" for name in vision), "lm_head"],
    )


def is_in_four_bits(model: nn.Module) -> bool:
    """Whether any layer is."""
    return any(_is_packed(part) for part in model.modules())


def keep_packed_weights(model: Any) -> None:
    """Let a CPU multiply by the same numbers in training and in evaluation, in place.

    bitsandbytes packs the weights anew for products in bfloat16 when it meets them in evaluation: the sampler's density
    would not be that of the gradient pass, and the weights could not be unpacked as they were.
    """
    for part in model.modules():
        if _is_packed(part):
            part.support_avx512bf16_for_cpu = False


def multiply_in_float32(model: Any) -> None:
    """In place, for comparisons; no effect on layers that are not in 4 bits."""
    for part in model.modules():
        if _is_packed(part):
            part.compute_dtype = torch.float32
            part.weight.quant_state = _unpacking_to_float32(part)


@torch.no_grad()
def in_float32(model: "PeftModel") -> "PeftModel":
    """A copy on the CPU whose base holds the 4-bit weights' own values in float32: it says what the model says.

    Adapters merged into it are merged without another rounding to 4 bits.
    """
    from bitsandbytes.functional import dequantize_4bit
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    base: Any = model.get_base_model()
    plain: Any = AutoModelForImageTextToText.from_pretrained(
        base.name_or_path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    parts = dict(base.named_modules())
    for name, weights in base.named_parameters():
        if "lora_" in name:
            continue
        owner: Any = parts[name.rpartition(".")[0]]
        is_packed = _is_packed(owner) and name.endswith(".weight")
        values = dequantize_4bit(weights.data, _unpacking_to_float32(owner)) if is_packed else weights
        plain.get_parameter(name.replace(".base_layer", "")).copy_(values)
    (config,) = model.peft_config.values()
    whole = get_peft_model(plain, copy.deepcopy(config))
    set_peft_model_state_dict(whole, get_peft_model_state_dict(model, save_embedding_layers=False))
    return whole.train(model.training)


def _unpacking_to_float32(part: Any) -> Any:
    """How a layer's weight was packed; a model in 16 bits would round what it unpacks to those."""
    state = copy.copy(part.weight.quant_state)
    state.dtype = torch.float32
    return state


def _is_packed(part: Any) -> bool:
    return type(part).__name__ == "Linear4bit"  # of bitsandbytes, which not every machine has
