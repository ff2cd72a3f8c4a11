"""Transformers' norms and rotary positions without their roundings to float32, so that float64 shows what is equal."""

from functools import wraps
from importlib import import_module
from unittest.mock import patch

from torch import Tensor

NORMS = {
    "llama": "LlamaRMSNorm", "qwen2": "Qwen2RMSNorm", "qwen2_vl": "Qwen2VLRMSNorm", "qwen2_5_vl": "Qwen2_5_VLRMSNorm",
    "qwen3": "Qwen3RMSNorm", "qwen3_vl": "Qwen3VLTextRMSNorm",
}  # fmt: skip
ROTARY = {
    "llama": "LlamaRotaryEmbedding", "qwen2": "Qwen2RotaryEmbedding", "qwen2_vl": "Qwen2VLRotaryEmbedding",
    "qwen2_5_vl": "Qwen2_5_VLRotaryEmbedding", "qwen3": "Qwen3RotaryEmbedding",
    "qwen3_vl": "Qwen3VLTextRotaryEmbedding",
}  # fmt: skip
TOWERS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def in_double(function):
    """The function of whichever version of transformers, with ``Tensor.float`` widening to float64."""

    @wraps(function)
    def call(*args, **kwargs):
        with patch.object(Tensor, "float", Tensor.double):
            return function(*args, **kwargs)

    return call


def lift_roundings(monkeypatch):
    def normed(self, x):
        return self.weight * (x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt())

    for name, norm in NORMS.items():
        module = import_module(f"transformers.models.{name}.modeling_{name}")
        monkeypatch.setattr(getattr(module, norm), "forward", normed)
        rotary = getattr(module, ROTARY[name])
        monkeypatch.setattr(rotary, "forward", in_double(rotary.forward))
        if name in TOWERS:
            turn = module.apply_rotary_pos_emb_vision
            monkeypatch.setattr(module, "apply_rotary_pos_emb_vision", in_double(turn))
