r"""K completions behind one prefix: the layout of the packed row, and its inverse.

A scene's row is [prefix, c_1, ..., c_K]. A completion token sees the prefix and the earlier tokens of its own
completion; positions restart after the prefix. So each completion is computed as if it stood alone behind the
prefix, while the prefix is computed once:

    query \\ key   prefix   c_1     c_2
    prefix        causal    .       .
    c_1           all      causal   .
    c_2           all       .      causal

The last token of a completion predicts nothing, so only T - 1 tokens of each are fed.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lvad.types import Prefix


class PackedRow(NamedTuple):
    """Inputs of one forward over N = P + K (T - 1) positions."""

    attention_mask: Tensor
    """bool[B, 1, N, N], True where a query sees a key."""
    position_ids: Tensor
    """int64[B, N]."""


def pack(prefix_mask: Tensor, num_completions: int, num_tokens: int) -> PackedRow:
    """Lay out K completions of T tokens behind a prefix.

    Args:
        prefix_mask: bool[B, P], True on real positions, padding on the right.
        num_completions: K.
        num_tokens: T.
    """
    batch, width = prefix_mask.shape
    fed = num_tokens - 1
    device = prefix_mask.device
    causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    branch = torch.ones(fed, fed, dtype=torch.bool, device=device).tril()
    branches = torch.block_diag(*[branch] * num_completions).to(torch.bool) if fed else branch
    size = width + num_completions * fed
    sees = torch.zeros(batch, size, size, dtype=torch.bool, device=device)
    sees[:, :width, :width] = causal & prefix_mask.unsqueeze(1)
    sees[:, width:, :width] = prefix_mask.unsqueeze(1)
    sees[:, width:, width:] = branches
    # A padding row sees itself: a row that sees nothing is 0 / 0 in the softmax.
    sees |= torch.eye(size, dtype=torch.bool, device=device)
    steps = torch.arange(fed, device=device).repeat(num_completions)
    after = prefix_mask.sum(1, keepdim=True) + steps
    return PackedRow(sees.unsqueeze(1), torch.cat([prefix_positions(prefix_mask), after], 1))


def prefix_positions(prefix_mask: Tensor) -> Tensor:
    """int64[B, P] positions of the prefix; padding repeats the last real one."""
    return prefix_mask.long().cumsum(1).sub(1).clamp(min=0)


def last_real(hidden: Tensor, prefix_mask: Tensor) -> Tensor:
    """float[B, D], the hidden state at each prefix's last real position."""
    last = prefix_mask.sum(1) - 1
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


def unpack(hidden: Tensor, prefix: Prefix, num_completions: int, num_tokens: int) -> Tensor:
    """float[B, K, T, D]: the hidden state that predicts each completion token.

    The first token of every completion is predicted at the prefix's last real position, the others one token
    before themselves.
    """
    batch, width = prefix.prefix_mask.shape
    first = last_real(hidden, prefix.prefix_mask)[:, None, None].expand(-1, num_completions, -1, -1)
    rest = hidden[:, width:].reshape(batch, num_completions, num_tokens - 1, hidden.shape[-1])
    return torch.cat([first, rest], 2)
