"""The text model's gated layer with a gradient of its own: the same values, one activation less to keep."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaMLP


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


def make_gates_lean(model: nn.Module) -> None:
    """Let the gated layers of a Llama text model compute by ``SwiGLU``, in place; their weights stay."""
    for part in model.modules():
        if type(part) is LlamaMLP and part.config.hidden_act == "silu":
            part.__class__ = _LeanMLP
