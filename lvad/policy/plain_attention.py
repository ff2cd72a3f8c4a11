"""Attention by plain matrix products, for devices and dtypes without a kernel, in bounded memory.

It computes some queries at a time, so that at most ``SCORES_AT_ONCE`` scores are in memory; the backward pass computes
them again.
"""

import torch
from torch import Tensor

SCORES_AT_ONCE = 2**24
"""The most scores in memory: 64 MiB in float32."""


def wide_product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply float[N, X, Y] by float[N, Y, Z] to float[N, X, Z], in at least float32 for half precision inputs."""
    if a.is_cuda and a.dtype in (torch.float16, torch.bfloat16) and torch.version.cuda is not None:
        return torch.bmm(a, b, out_dtype=torch.float32)
    wide = torch.promote_types(a.dtype, torch.float32)
    with torch.autocast(a.device.type, enabled=False):  # which would round the inputs again
        return torch.bmm(a.to(wide), b.to(wide))


def plain_attend(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Compute the output float[B, H, T, D] and the log-sum-exp float[B, H, T].

    Args:
        q: float[B, H, T, D].
        k: float[B, G, S, D] of S keys.
        v: float[B, G, S, D].
        scale: of the scores.
        causal: query t attends to the keys up to t; then S = T.
    """
    outs, lses = [], []
    for rows, keys in _blocks(q, k, causal):
        scores = _scores(q[:, :, rows], k[:, :, keys], scale, rows.start if causal else None)
        out = wide_product(_per_key_head(scores.softmax(-1).to(v.dtype), v), v[:, :, keys].flatten(0, 1))
        outs.append(out.view(*scores.shape[:3], -1).to(v.dtype))
        lses.append(scores.logsumexp(-1))
    return torch.cat(outs, 2), torch.cat(lses, 2)


def plain_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of q, k and v of ``plain_attend``, in their shapes."""
    along = (grad * out).sum(-1, keepdim=True)
    of_q = []
    of_k, of_v = (torch.zeros(x.shape, dtype=lse.dtype, device=x.device) for x in (k, v))
    for rows, keys in _blocks(q, k, causal):
        q_rows, grad_rows = q[:, :, rows], grad[:, :, rows]
        keys_flat, values_flat = (x[:, :, keys].flatten(0, 1) for x in (k, v))
        probs = (_scores(q_rows, k[:, :, keys], scale, rows.start if causal else None) - lse[:, :, rows, None]).exp()
        weight = wide_product(_per_key_head(grad_rows, v), values_flat.transpose(1, 2)).view(probs.shape)
        of_scores = _per_key_head((probs * (weight - along[:, :, rows]) * scale).to(q.dtype), k)
        of_q.append(wide_product(of_scores, keys_flat).view(q_rows.shape).to(q.dtype))
        of_k[:, :, keys] += wide_product(of_scores.transpose(1, 2), _per_key_head(q_rows, k)).view_as(k[:, :, keys])
        probs = _per_key_head(probs.to(grad.dtype), v)
        of_v[:, :, keys] += wide_product(probs.transpose(1, 2), _per_key_head(grad_rows, v)).view_as(v[:, :, keys])
    return torch.cat(of_q, 2), of_k.to(k.dtype), of_v.to(v.dtype)


def _blocks(q: Tensor, k: Tensor, causal: bool) -> list[tuple[slice, slice]]:
    """Split the queries into blocks, each with the keys that some of its queries attend to."""
    batch, heads, num_queries, _ = q.shape
    num_keys = k.shape[2]
    size = max(1, SCORES_AT_ONCE // (batch * heads * num_keys))
    starts = range(0, num_queries, size)
    return [
        (slice(s, min(s + size, num_queries)), slice(min(s + size, num_keys) if causal else num_keys)) for s in starts
    ]


def _per_key_head(rows: Tensor, shared: Tensor) -> Tensor:
    """Group the heads that share a key head: float[B G, H / G T, N] from float[B, H, T, N]."""
    return rows.unflatten(1, (shared.shape[1], -1)).flatten(2, 3).flatten(0, 1)


def _scores(q: Tensor, k: Tensor, scale: float, first: int | None) -> Tensor:
    """Compute the scores float[B, H, T, S] in at least float32.

    Args:
        q: float[B, H, T, D].
        k: float[B, G, S, D] of S keys.
        scale: of the scores.
        first: the position of the first query, if each attends to the keys up to its own position; None for all keys.
    """
    scores = wide_product(_per_key_head(q, k), k.flatten(0, 1).transpose(1, 2)).view(*q.shape[:3], -1) * scale
    if first is None:
        return scores
    place = torch.arange(first, first + q.shape[2], device=q.device).unsqueeze(1)
    return scores.masked_fill_(torch.arange(k.shape[2], device=q.device) > place, -torch.inf)
