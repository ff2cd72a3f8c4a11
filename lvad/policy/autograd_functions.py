"""Layers of the text model with hand-written backward passes: the same gradients in less time and memory.

Differentiated operation by operation, as in transformers, a norm takes 12 passes over the activations and keeps five
copies of them; the formula of its gradient needs the input and one number per row (``RMSNorm``). A gated layer keeps
one activation less (``SwiGLU``).

The gradient of an embedding lookup is as large as the vocabulary and nearly all zeros: with one lookup for the prompts
and one for the completions twice 113 MB for SmolVLM-256M. ``shared_lookup`` keeps only the rows that were looked up,
and makes their sum dense once.

``TokenLogps`` computes log-probabilities of tokens from hidden states without keeping the logits. With u the one-hot
token and q the sampled distribution, the gradient of the logits is (u - q) / temperature. So the backward pass can
compute the logits again in parts, and adds to one gradient of the weight.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from lvad.ops import gather_logps


class RMSNorm(torch.autograd.Function):
    """y = w n with n = x / sqrt(mean(x^2) + eps) over the last dimension (Zhang & Sennrich 2019, arXiv:1910.07467).

    With r = n / x and g_n = g w, the gradient of x is r (g_n - n mean(g_n n)). At least float32 inside.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Compute y float[..., E] from x float[..., E] and weight float[E]."""
        scale = _scale(x, eps)
        ctx.save_for_backward(x, weight, scale)
        return _normed(x, weight, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of x and weight."""
        x, weight, scale = ctx.saved_tensors
        grad, normed = _wide(grads[0]), _wide(x) * scale
        needs_x, needs_weight, _ = ctx.needs_input_grad
        of_weight = (grad * normed).flatten(0, -2).sum(0).to(weight.dtype) if needs_weight else None
        if not needs_x:
            return None, of_weight, None
        of_normed = grad * weight
        along = (of_normed * normed).mean(-1, keepdim=True)
        return of_normed.addcmul_(normed, along, value=-1).mul_(scale).to(x.dtype), of_weight, None


class _PatchedRMSNorm(LlamaRMSNorm):
    """The class that ``patch_norms`` gives to normalisations."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        if hidden_states.is_cuda:  # PyTorch has kernels for both passes there
            return rms_norm(hidden_states, self.weight, self.variance_epsilon)
        return RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)  # type: ignore[return-value]


_NORM_CLASSES: Final = (
    "LlamaRMSNorm", "Qwen2RMSNorm", "Qwen2VLRMSNorm", "Qwen2_5_VLRMSNorm", "Qwen3RMSNorm", "Qwen3VLTextRMSNorm"
)  # fmt: skip


def patch_norms(model: nn.Module) -> None:
    """Make the normalisations of a text model compute with ``RMSNorm``, in place."""
    for part in model.modules():
        if is_transformers_class(part, _NORM_CLASSES):
            # Change the class and not the module: weights, hooks and names in checkpoints stay as they are.
            part.__class__ = _PatchedRMSNorm


def is_transformers_class(part: nn.Module, names: Sequence[str]) -> bool:
    """Whether a module is of one of these transformers classes, told by name so that none is imported."""
    kind = type(part)
    return kind.__name__ in names and kind.__module__.startswith("transformers.models.")


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Compute the values of ``RMSNorm`` where no gradient is taken, by one kernel if the device has it."""
    if not x.is_cpu and x.dtype == weight.dtype:
        return nn.functional.rms_norm(x, weight.shape, weight, eps)
    return _normed(x, weight, _scale(x, eps))


def _normed(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return (_wide(x) * scale).to(x.dtype) * weight


def _scale(x: Tensor, eps: float) -> Tensor:
    return _wide(x).square().mean(-1, keepdim=True).add_(eps).rsqrt_()


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


_SILU: Final = type(ACT2FN["silu"])


class SwiGLU(torch.autograd.Function):
    """silu(gate) up (Shazeer 2020, arXiv:2002.05202); the backward pass computes silu(gate) again."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """Compute float[..., F] from gate and up, float[..., F]."""
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradients of gate and up in only two new tensors: first writes to memory are most of the time."""
        gate, up = ctx.saved_tensors
        of_gate = grads[0] * up
        # The operation is elementwise, so it may overwrite its input.
        torch.ops.aten.silu_backward.grad_input(of_gate, gate, grad_input=of_gate)
        return of_gate, nn.functional.silu(gate).mul_(grads[0])


class _PatchedMLP(LlamaMLP):
    """The class that ``patch_gates`` gives to gated layers."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(SwiGLU.apply(self.gate_proj(x), self.up_proj(x)))


_GATED_CLASSES: Final = ("LlamaMLP", "Qwen2MLP", "Qwen2_5_VLMLP", "Qwen3MLP", "Qwen3VLTextMLP")


def patch_gates(model: nn.Module) -> None:
    """Make the gated layers of a text model compute with ``SwiGLU``, in place."""
    for part in model.modules():
        if is_transformers_class(part, _GATED_CLASSES) and isinstance(part.act_fn, _SILU):
            # Only the class, as above; adapters that are later put on the three projections are still called.
            part.__class__ = _PatchedMLP


Lookup = Callable[[Tensor], Tensor]
"""float[N, E] embeddings of int64[N] tokens."""


def shared_lookup(embedding: nn.Embedding) -> Lookup:
    """Make the embedding lookup of one step; the weight gets one dense gradient for all calls."""
    # If gradients are off now, at most the completions' lookup will have one, which need not be shared.
    is_shared = torch.is_grad_enabled()
    weight: Any = _DenseGradient.apply(embedding.weight) if is_shared else embedding.weight
    return lambda tokens: nn.functional.embedding(tokens, weight, embedding.padding_idx, sparse=is_shared)


class _DenseGradient(torch.autograd.Function):
    """The identity, whose backward pass makes a sparse gradient dense."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.view_as(weight)  # a view, in which autograd adds the sparse gradients of all lookups

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].to_dense()


LOGITS_AT_ONCE = 2**23
"""The most logits in memory: 32 MiB in float32."""

NextTokenLogps = Callable[[Tensor, slice], Tensor]
"""Log-probabilities float[n, V] from the logits float[n, V] of a slice of the rows: the log-softmax of logits /
temperature, -inf outside a kept set, which contains the drawn tokens. At least float32."""


class TokenLogps(torch.autograd.Function):
    """The log-probabilities log q(token) of N drawn tokens, with at most ``LOGITS_AT_ONCE`` logits in memory."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, tokens: Tensor, temperature: float, next_token_logps: NextTokenLogps
    ) -> Tensor:
        """Compute float[N] from states float[N, E], the head's weight float[V, E] and the tokens int64[N]."""
        ctx.save_for_backward(states, weight, tokens)
        ctx.temperature, ctx.next_token_logps = temperature, next_token_logps
        device = states.device.type
        ctx.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        states, weight = states.to(ctx.dtype), weight.to(ctx.dtype)
        parts = [
            gather_logps(next_token_logps(states[rows] @ weight.t(), rows), tokens[rows])
            for rows in _parts(len(states), len(weight))
        ]
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of the states and the weight."""
        states, weight, tokens = ctx.saved_tensors
        needs_states, needs_weight, *_ = ctx.needs_input_grad
        rounded, rounded_weight = states.to(ctx.dtype), weight.to(ctx.dtype)
        of_states: list[Tensor] = []
        of_weight: Tensor | None = None
        for rows in _parts(len(states), len(weight)):
            # (u - q) / temperature, in the memory of the logits: exp turns the log-probability into q, and -inf into 0.
            of_drawn = grad[rows].unsqueeze(1) / ctx.temperature
            of_logits = ctx.next_token_logps(rounded[rows] @ rounded_weight.t(), rows).exp_().mul_(-of_drawn)
            of_logits = of_logits.scatter_add_(1, tokens[rows].unsqueeze(1), of_drawn).to(ctx.dtype)
            if needs_states:
                of_states.append(of_logits @ rounded_weight)
            if needs_weight:
                of_weight = _plus_product(of_weight, of_logits.t(), rounded[rows], weight.dtype)
        return torch.cat(of_states).to(states.dtype) if needs_states else None, of_weight, None, None, None


def _plus_product(total: Tensor | None, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    if total is None:
        return (a @ b).to(dtype)
    return total.addmm_(a, b) if a.dtype == dtype else total.add_(a @ b)  # addmm_ takes only one dtype


def _parts(num_rows: int, vocabulary: int) -> list[slice]:
    size = max(1, LOGITS_AT_ONCE // vocabulary)
    # No rows give one empty part, from which the result takes dtype and device.
    return [slice(start, start + size) for start in range(0, max(1, num_rows), size)]
