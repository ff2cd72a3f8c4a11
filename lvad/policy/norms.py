"""The text model's normalisation with a gradient of its own: the same values, half the time on a CPU or less.

Differentiated operation by operation, as transformers has it, it is 12 passes over the activations and five copies of
them; the formula of the gradient needs the input and one number per row.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm


class RMSNorm(torch.autograd.Function):
    """y = w n with n = x / sqrt(mean(x^2) + eps) over the last dimension (Zhang & Sennrich 2019, arXiv:1910.07467).

    With r = n / x and g_n = g w, the gradient of x is r (g_n - n mean(g_n n)). At least float32 inside.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """float[..., E] from x float[..., E] and weight float[E]."""
        scale = _scale(x, eps)
        ctx.save_for_backward(x, weight, scale)
        return _normed(x, weight, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Of x and weight."""
        x, weight, scale = ctx.saved_tensors
        grad, normed = _wide(grads[0]), _wide(x) * scale
        needs_x, needs_weight, _ = ctx.needs_input_grad
        of_weight = (grad * normed).flatten(0, -2).sum(0).to(weight.dtype) if needs_weight else None
        if not needs_x:
            return None, of_weight, None
        of_normed = grad * weight
        along = (of_normed * normed).mean(-1, keepdim=True)
        return of_normed.addcmul_(normed, along, value=-1).mul_(scale).to(x.dtype), of_weight, None


class _LeanNorm(LlamaRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        if hidden_states.is_cuda:  # which has a kernel for both passes
            return rms_norm(hidden_states, self.weight, self.variance_epsilon)
        return RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)  # type: ignore[return-value]


_SAME_FORMULA: Final = (
    "LlamaRMSNorm", "Qwen2RMSNorm", "Qwen2VLRMSNorm", "Qwen2_5_VLRMSNorm", "Qwen3RMSNorm", "Qwen3VLTextRMSNorm"
)  # fmt: skip


def make_norms_lean(model: nn.Module) -> None:
    """Let the normalisations of a text model compute by ``RMSNorm``, in place; their weights stay."""
    for part in model.modules():
        if is_of_transformers(part, _SAME_FORMULA):
            part.__class__ = _LeanNorm


def is_of_transformers(part: nn.Module, names: Sequence[str]) -> bool:
    """Whether a module is of one of these classes of transformers; those of other models need not be imported."""
    kind = type(part)
    return kind.__name__ in names and kind.__module__.startswith("transformers.models.")


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The values of ``RMSNorm`` where no gradient is taken, by one kernel where the device has it."""
    if not x.is_cpu and x.dtype == weight.dtype:
        return nn.functional.rms_norm(x, weight.shape, weight, eps)
    return _normed(x, weight, _scale(x, eps))


def _normed(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return (_wide(x) * scale).to(x.dtype) * weight


def _scale(x: Tensor, eps: float) -> Tensor:
    return _wide(x).square().mean(-1, keepdim=True).add_(eps).rsqrt_()


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
