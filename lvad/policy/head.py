"""The log-probabilities of drawn tokens from the states that predict them, and their gradient as a formula.

With u the one-hot drawn token and q the density, the gradient of the logits is (u - q) / temperature. So a part of the
logits at a time is enough: the backward pass computes each part again, and adds to one gradient of the weight.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lvad.ops import gather_logps

LOGITS_AT_ONCE = 2**23
"""32 MiB of them in float32."""

LogDensity = Callable[[Tensor, slice], Tensor]
"""float[n, V] from the logits float[n, V] of some of the rows: the log-softmax of logits / temperature, -inf outside of
a kept set, which holds the drawn tokens. At least float32."""


class DrawnLogps(torch.autograd.Function):
    """log q(token) of N drawn tokens, with no more than ``LOGITS_AT_ONCE`` logits in memory."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, tokens: Tensor, temperature: float, log_density: LogDensity
    ) -> Tensor:
        """float[N] from states float[N, E], the head's weight float[V, E] and the tokens int64[N]."""
        ctx.save_for_backward(states, weight, tokens)
        ctx.temperature, ctx.log_density = temperature, log_density
        device = states.device.type
        ctx.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        states, weight = states.to(ctx.dtype), weight.to(ctx.dtype)
        parts = [
            gather_logps(log_density(states[rows] @ weight.t(), rows), tokens[rows])
            for rows in _parts(len(states), len(weight))
        ]
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Of the states and the weight."""
        states, weight, tokens = ctx.saved_tensors
        needs_states, needs_weight, *_ = ctx.needs_input_grad
        rounded, rounded_weight = states.to(ctx.dtype), weight.to(ctx.dtype)
        of_states: list[Tensor] = []
        of_weight: Tensor | None = None
        for rows in _parts(len(states), len(weight)):
            of_drawn = grad[rows].unsqueeze(1) / ctx.temperature
            of_logits = ctx.log_density(rounded[rows] @ rounded_weight.t(), rows).exp_().mul_(-of_drawn)
            of_logits = of_logits.scatter_add_(1, tokens[rows].unsqueeze(1), of_drawn).to(ctx.dtype)
            if needs_states:
                of_states.append(of_logits @ rounded_weight)
            if needs_weight:
                of_weight = _plus_product(of_weight, of_logits.t(), rounded[rows], weight.dtype)
        return torch.cat(of_states).to(states.dtype) if needs_states else None, of_weight, None, None, None


def _plus_product(total: Tensor | None, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    if total is None:
        return (a @ b).to(dtype)
    return total.addmm_(a, b) if a.dtype == dtype else total.add_(a @ b)


def _parts(num_rows: int, vocabulary: int) -> list[slice]:
    size = max(1, LOGITS_AT_ONCE // vocabulary)
    return [slice(start, start + size) for start in range(0, max(1, num_rows), size)]
