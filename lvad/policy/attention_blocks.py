"""The backward pass of attention on a CPU: PyTorch's kernel, called on blocks of the score matrix.

The kernel gives each key head of a sequence to one core, so one prompt with three key heads leaves one of two cores
idle half of the time. It also computes much of what the causal mask hides. A causal square of T tokens is two causal
squares of T / 2, which the kernel takes like two sequences, and one full block of the later queries and the earlier
keys. Output and log-sum-exp are those over all keys, so the gradients of the blocks add up (``attention``).
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

_SMALLEST_SQUARE = 128  # tokens; the calls for smaller halves cost more than they save
_FEWEST_KEYS = 256  # in a strip
_TASKS_PER_CORE = 2

Inputs = tuple[Tensor, ...]
"""grad and q float[B, T, H, D], k and v float[B, S, G, D] of S keys, output float[B, T, H, D], log-sum-exp
float[B, T, H]."""
Grads = tuple[Tensor, Tensor, Tensor]
"""The gradients of q, k and v, in their shapes."""


def causal_backward(inputs: Inputs, scale: float) -> Grads:
    """Compute the gradients where query t attends to the keys up to t."""
    length = inputs[0].shape[1]
    num_halvings = max(0, (length // _SMALLEST_SQUARE).bit_length() - 1)
    # Zero rows at the end change nothing: no other row attends to them, and their own gradient is zero.
    inputs = tuple(_padded(x, -length % 2**num_halvings) for x in inputs)
    gq, gk, gv = _square_backward(inputs, scale, num_halvings)
    return gq[:, :length], gk[:, :length], gv[:, :length]


def full_backward(inputs: Inputs, scale: float) -> Grads:
    """Compute the gradients where every query attends to every key."""
    grad, q, k, v, out, lse = inputs
    length = k.shape[1]
    wanted = -(-_TASKS_PER_CORE * torch.get_num_threads() // (len(k) * k.shape[2]))
    num_strips = max(1, min(wanted, length // _FEWEST_KEYS))
    if num_strips == 1:
        return _kernel(inputs, scale, causal=False)
    end = length - length % num_strips
    gq, gk, gv = _strips_backward((grad, q, k[:, :end], v[:, :end], out, lse), scale, num_strips)
    if end == length:
        return gq, gk, gv
    more_q, rest_k, rest_v = _kernel((grad, q, k[:, end:], v[:, end:], out, lse), scale, causal=False)
    return gq + more_q, torch.cat([gk, rest_k], 1), torch.cat([gv, rest_v], 1)


def _strips_backward(inputs: Inputs, scale: float, num_strips: int) -> Grads:
    """Split the keys into strips, and give them to the kernel like sequences with the same queries."""
    grad, q, k, v, out, lse = inputs
    k, v = (x.unflatten(1, (num_strips, -1)).flatten(0, 1) for x in (k, v))
    grad, q, out, lse = (x.unsqueeze(1).expand(-1, num_strips, *x.shape[1:]).flatten(0, 1) for x in (grad, q, out, lse))
    gq, gk, gv = (x.unflatten(0, (-1, num_strips)) for x in _kernel((grad, q, k, v, out, lse), scale, causal=False))
    return gq.sum(1), gk.flatten(1, 2), gv.flatten(1, 2)


def _square_backward(inputs: Inputs, scale: float, num_halvings: int) -> Grads:
    if not num_halvings:
        return _kernel(inputs, scale, causal=True)
    halves = [x.unflatten(1, (2, -1)) for x in inputs]
    squares = _square_backward(tuple(x.flatten(0, 1) for x in halves), scale, num_halvings - 1)
    gq, gk, gv = (x.unflatten(0, (-1, 2)) for x in squares)
    (_, grad), (_, q), (k, _), (v, _), (_, out), (_, lse) = (x.unbind(1) for x in halves)
    of_later, *of_earlier = full_backward((grad, q, k, v, out, lse), scale)
    # In place: the kernel made these tensors in this call, nobody else holds them.
    for total, more in zip((gq[:, 1], gk[:, 0], gv[:, 0]), (of_later, *of_earlier), strict=True):
        total += more
    return gq.flatten(1, 2), gk.flatten(1, 2), gv.flatten(1, 2)


def _kernel(inputs: Inputs, scale: float, causal: bool) -> Grads:
    heads_first = (x.transpose(1, 2) for x in inputs)
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    gq, gk, gv = backward(*heads_first, 0.0, causal, scale=scale)
    return gq.transpose(1, 2), gk.transpose(1, 2), gv.transpose(1, 2)


def _padded(x: Tensor, num_rows: int) -> Tensor:
    return pad(x, (0, 0) * (x.dim() - 2) + (0, num_rows)) if num_rows else x
