"""Looking up tokens at several times in one step, with one gradient for all.

Each lookup of its own has a gradient as large as the vocabulary, nearly all zeros: for the prompts and their
completions twice 113 MB for SmolVLM-256M. Here a lookup's gradient holds its own rows, and the sum becomes whole once.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Lookup = Callable[[Tensor], Tensor]
"""float[N, E] embeddings of int64[N] tokens."""


def shared_lookup(embedding: nn.Embedding) -> Lookup:
    """Lookups of one step; a gradient reaches the weight when all of them have theirs."""
    # Without gradients now, there may still be some for a later lookup, and it is the only one.
    is_shared = torch.is_grad_enabled()
    weight: Any = _WholeGradient.apply(embedding.weight) if is_shared else embedding.weight
    return lambda tokens: nn.functional.embedding(tokens, weight, embedding.padding_idx, sparse=is_shared)


class _WholeGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].to_dense()
