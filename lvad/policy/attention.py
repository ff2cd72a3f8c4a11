r"""Attention of completions that share a prompt, without copying the prompt's keys and without a mask.

A completion's token sees the whole prompt and the earlier tokens of its own completion:

    query \\ key   prompt   c_1     c_2
    c_1           all      causal   .
    c_2           all       .      causal

The softmax over both parts is put together from two softmaxes, one per part, by their log-sum-exps (Dao et al. 2022,
arXiv:2205.14135, sec. 3.1). The prompt's part is one call for all completions of a scene, the completions' part a
plain causal call. With the merged output and log-sum-exp, the backward pass of each part alone gives the exact
gradient of the whole (Liu et al. 2023, Ring Attention, arXiv:2310.01889). So nothing is computed for pairs that do
not see each other.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lvad.policy.attention_blocks import causal_backward, full_backward
from lvad.policy.layout import Layout
from lvad.policy.plain_attention import plain_attend, plain_backward


class Part(NamedTuple):
    """Attention to some of the keys."""

    out: Tensor
    """float[B, T, H, D]."""
    lse: Tensor
    """float[B, T, H], log of the sum of the exponentiated scores."""


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Part:
    """Softmax attention with its log-sum-exp, by the fastest exact kernel of the device.

    Args:
        q: float[B, T, H, D].
        k: float[B, S, G, D]; the H heads share G key heads, H / G to each.
        v: float[B, S, G, D].
        scale: of the scores.
        causal: query t sees the keys up to t; then S = T.
    """
    # The kernels have heads before tokens; they read views, so nothing is copied.
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if q.is_cpu:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
    elif _has_cuda_kernel(q):
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)[:2]
    else:
        out, lse = plain_attend(q, k, v, scale, causal)
    return Part(out.transpose(1, 2), lse.transpose(1, 2))


def attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, part: Part, scale: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, in their shapes.

    Args:
        grad: float[B, T, H, D], of the output.
        q: float[B, T, H, D].
        k: float[B, S, G, D].
        v: float[B, S, G, D].
        part: output and log-sum-exp over all the keys that the queries saw, these and others.
        scale: as in ``attend``.
        causal: as in ``attend``.
    """
    if q.is_cpu:
        return (causal_backward if causal else full_backward)((grad, q, k, v, *part), scale)
    grad, q, k, v, out = (x.transpose(1, 2) for x in (grad, q, k, v, part.out))
    lse = part.lse.transpose(1, 2)
    if _has_cuda_kernel(q):
        backward = torch.ops.aten._scaled_dot_product_flash_attention_backward
        unused = torch.empty(0, dtype=torch.long, device=q.device)  # the random state of dropout
        lens = (None, None, q.shape[2], k.shape[2])
        grads = backward(grad, q, k, v, out, lse.contiguous(), *lens, 0.0, causal, unused, unused, scale=scale)
    else:
        grads = plain_backward(grad, q, k, v, out, lse, scale, causal)
    gq, gk, gv = (g.transpose(1, 2) for g in grads)
    return gq, gk, gv


def _has_cuda_kernel(q: Tensor) -> bool:
    """PyTorch's flash kernel: half precision, from Ampere on, a head of at most 256 numbers."""
    is_half = q.dtype in (torch.float16, torch.bfloat16)
    size = q.shape[-1]
    return q.is_cuda and is_half and size % 8 == 0 and size <= 256 and _capability(q.device) >= (8, 0)


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def merge(first: Part, second: Part) -> Part:
    """Attention to the keys of both."""
    return Part(merged_output(first, second), torch.logaddexp(first.lse, second.lse))


def merged_output(first: Part, second: Part) -> Tensor:
    """The outputs weighted by exp(lse), which leaves one sigmoid."""
    weight = (first.lse - second.lse).sigmoid().unsqueeze(-1).to(first.out.dtype)
    return torch.lerp(second.out, first.out, weight)


class TreeAttention(torch.autograd.Function):
    """Causal attention inside each completion, and to the whole prompt of its scene if there is one.

    Rows are flat: q float[N, H, D], k and v float[N, G, D]; the prompts' keys float[S, G, D] in a layout of their own
    with the same groups of the same scenes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        layout: Layout,
        prompts: Layout | None,
        scale: float,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        prompt_k: Tensor | None,
        prompt_v: Tensor | None,
    ) -> Tensor:
        """Output float[N, H, D]."""
        ctx.layouts, ctx.scale = (layout, prompts), scale
        parts = [_attend_grid(seen, scale) for seen in _grids(layout, prompts, (q, k, v), (prompt_k, prompt_v))]
        out, lse = layout.join([p.out for p in parts]), layout.join([p.lse for p in parts])
        ctx.save_for_backward(q, k, v, prompt_k, prompt_v, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Of q, k, v and the prompts' keys and values."""
        q, k, v, prompt_k, prompt_v, out, lse = ctx.saved_tensors
        layout, prompts = ctx.layouts
        groups = zip(
            _grids(layout, prompts, (q, k, v), (prompt_k, prompt_v)),
            layout.split(grads[0], fill_zero=True),  # padding repeats a real row, which must not count again
            layout.split(out),
            layout.split(lse),
            strict=True,
        )
        parts = [_grid_backward(seen, grad, Part(o, e), ctx.scale) for seen, grad, o, e in groups]
        columns = list(zip(*parts, strict=True))
        of_prompts = (None, None) if prompts is None else (prompts.join(columns[3]), prompts.join(columns[4]))
        return None, None, None, *(layout.join(column) for column in columns[:3]), *of_prompts


class _AttentionGrids(NamedTuple):
    """What one group's queries attend to, as grids."""

    shape: tuple[int, int, int]
    """B scenes, K completions, T tokens."""
    q: Tensor
    """float[B K T, H, D]."""
    k: Tensor
    """float[B K T, G, D]."""
    v: Tensor
    prompt_k: Tensor | None
    """float[B, P, G, D]."""
    prompt_v: Tensor | None


def _grids(
    layout: Layout, prompts: Layout | None, own: tuple[Tensor, ...], prompt: tuple[Tensor | None, ...]
) -> list[_AttentionGrids]:
    shapes = [grid.shape for grid in layout.grids]
    q, k, v = (layout.split(x) for x in own)
    if prompts is None:
        return [_AttentionGrids(*row, None, None) for row in zip(shapes, q, k, v, strict=True)]
    prompt_k, prompt_v = (prompts.split_scenes(x) for x in prompt if x is not None)
    return [_AttentionGrids(*row) for row in zip(shapes, q, k, v, prompt_k, prompt_v, strict=True)]


def _attend_grid(seen: _AttentionGrids, scale: float) -> Part:
    scenes, completions, _ = seen.shape
    q, k, v = (_per(scenes * completions, x) for x in (seen.q, seen.k, seen.v))
    own = attend(q, k, v, scale, causal=True)
    own = Part(own.out.flatten(0, 1), own.lse.flatten(0, 1))
    if seen.prompt_k is None or seen.prompt_v is None:
        return own
    # The queries of all completions as one sequence: each of them sees the whole prompt, so its keys are read once.
    prompt = attend(_per(scenes, seen.q), seen.prompt_k, seen.prompt_v, scale, causal=False)
    return merge(Part(prompt.out.flatten(0, 1), prompt.lse.flatten(0, 1)), own)


def _grid_backward(seen: _AttentionGrids, grad: Tensor, part: Part, scale: float) -> tuple[Tensor, ...]:
    scenes, completions, _ = seen.shape

    def backward(batch: int, k: Tensor, v: Tensor, causal: bool) -> list[Tensor]:
        # Output and log-sum-exp are those over both parts: with them each part's gradient is its share of the whole.
        grad_part, q, out, lse = (_per(batch, x) for x in (grad, seen.q, *part))
        grads = attend_backward(grad_part, q, k, v, Part(out, lse), scale, causal)
        return [x.flatten(0, 1) for x in grads]

    branches = scenes * completions
    gq, gk, gv = backward(branches, _per(branches, seen.k), _per(branches, seen.v), causal=True)
    if seen.prompt_k is None or seen.prompt_v is None:
        return gq, gk, gv
    gq_prompt, *g_prompt = backward(scenes, seen.prompt_k, seen.prompt_v, causal=False)
    return gq + gq_prompt, gk, gv, *g_prompt


def _per(batch: int, rows: Tensor) -> Tensor:
    return rows.unflatten(0, (batch, -1))
