"""PEFT's models and layers, told apart without importing it: that takes seconds, and no plain model needs it."""

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.lora import Linear as LoraLinear
    from peft.tuners.tuners_utils import BaseTunerLayer


def is_peft_model(model: Any) -> "TypeGuard[PeftModel]":
    """Whether a model carries adapters."""
    return _is_a(model, "peft", "PeftModel")


def is_lora_layer(layer: Any) -> "TypeGuard[LoraLinear]":
    """Whether a layer is a linear one with low-rank adapters."""
    return _is_a(layer, "peft.tuners.lora", "Linear")


def is_tuner_layer(layer: Any) -> "TypeGuard[BaseTunerLayer]":
    """Whether a layer has adapters of any kind."""
    return _is_a(layer, "peft.tuners.tuners_utils", "BaseTunerLayer")


def _is_a(value: Any, module: str, name: str) -> bool:
    """An instance of a class that was never loaded cannot exist."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))
