"""The text model's gated layer with a gradient of its own: the same values, one activation less to keep."""

from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaMLP

from lvad.policy.norms import is_of_transformers

_SILU: Final = type(ACT2FN["silu"])


class SwiGLU(torch.autograd.Function):
    """silu(gate) up (Shazeer 2020, arXiv:2002.05202); the backward pass computes silu(gate) again."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """float[..., F] from gate and up, float[..., F]."""
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """Of gate and up, in two new tensors: writing to memory for the first time is most of the work."""
        gate, up = ctx.saved_tensors
        of_gate = grads[0] * up
        torch.ops.aten.silu_backward.grad_input(of_gate, gate, grad_input=of_gate)
        return of_gate, nn.functional.silu(gate).mul_(grads[0])


class _LeanMLP(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(SwiGLU.apply(self.gate_proj(x), self.up_proj(x)))


_SAME_FORMULA: Final = ("LlamaMLP", "Qwen2MLP", "Qwen2_5_VLMLP", "Qwen3MLP", "Qwen3VLTextMLP")


def make_gates_lean(model: nn.Module) -> None:
    """Let the gated layers of a text model compute by ``SwiGLU``, in place; their weights stay."""
    for part in model.modules():
        if is_of_transformers(part, _SAME_FORMULA) and isinstance(part.act_fn, _SILU):
            part.__class__ = _LeanMLP
