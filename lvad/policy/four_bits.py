"""QLoRA: a frozen base model quantised to 4 bits under trained adapters (Dettmers et al. 2023, arXiv:2305.14314)."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

if TYPE_CHECKING:
    from peft import PeftModel


def four_bit_config(dtype: torch.dtype, vision: Sequence[str]) -> BitsAndBytesConfig:
    """Configure the text model's linear layers as 4-bit normal floats, multiplied in ``dtype``.

    Vision encoder, embedding and head are not quantised. The head's rounding errors would be in every probability, and
    some models share its weights with the embedding (SmolVLM-256M and 500M do not).

    Args:
        dtype: of matrix products.
        vision: the attributes of ``vlm.model`` that compute visual tokens.
    """
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        # The option is named after 8 bits, but holds for 4 bits too.
        llm_int8_skip_modules=[*(f"model.{name}" for name in vision), "lm_head"],
    )


def is_in_four_bits(model: nn.Module) -> bool:
    """Whether any layer of a model is quantised to 4 bits."""
    return any(_is_packed(part) for part in model.modules())


def keep_packed_weights(model: Any) -> None:
    """Stop bitsandbytes from packing weights again in evaluation mode on a CPU, in place.

    It would do so for products in bfloat16: the sampler's distribution would differ from that of the completion pass,
    and the original weights could not be unpacked again.
    """
    for part in model.modules():
        if _is_packed(part):
            part.support_avx512bf16_for_cpu = False


def multiply_in_float32(model: Any) -> None:
    """Make 4-bit layers multiply in float32, in place, for comparisons; other layers stay as they are."""
    for part in model.modules():
        if _is_packed(part):
            part.compute_dtype = torch.float32
            part.weight.quant_state = _unpacking_to_float32(part)


@torch.no_grad()
def dequantized(model: "PeftModel") -> "PeftModel":
    """Copy a model to the CPU with its 4-bit weights dequantised to float32, which leaves its outputs the same.

    Adapters can be merged into the copy without another rounding to 4 bits.
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
    """A layer's quantisation state for unpacking to float32; its own may round to 16 bits."""
    state = copy.copy(part.weight.quant_state)
    state.dtype = torch.float32
    return state


def _is_packed(part: Any) -> bool:
    return type(part).__name__ == "Linear4bit"  # of bitsandbytes, which not every machine has
