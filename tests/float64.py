"""Transformers' norms and rotary positions without their roundings to float32, so that float64 shows what is equal."""

from importlib import import_module

import torch

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


def lift_roundings(monkeypatch):
    def normed(self, x):
        return self.weight * (x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt())

    def turns(self, x, position_ids):
        angles = position_ids.unsqueeze(-1).to(x.dtype) * self.inv_freq.to(x.dtype)
        angles = torch.cat([angles, angles], -1)
        return angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling

    def turns_in_parts(self, x, position_ids):
        angles = position_ids.expand(3, -1, -1).unsqueeze(-1).to(x.dtype) * self.inv_freq.to(x.dtype)
        return self.recomposition_frequencies(angles.cos()), self.recomposition_frequencies(angles.sin())

    def turn(q, k, cos, sin):
        half = import_module("transformers.models.qwen2.modeling_qwen2").rotate_half
        cos, sin = cos.unsqueeze(-2).to(q.dtype), sin.unsqueeze(-2).to(q.dtype)
        return q * cos + half(q) * sin, k * cos + half(k) * sin

    for name, norm in NORMS.items():
        module = import_module(f"transformers.models.{name}.modeling_{name}")
        monkeypatch.setattr(getattr(module, norm), "forward", normed)
        monkeypatch.setattr(getattr(module, ROTARY[name]), "forward", turns_in_parts if name in TOWERS else turns)
        if name in TOWERS:
            monkeypatch.setattr(module, "apply_rotary_pos_emb_vision", turn)
