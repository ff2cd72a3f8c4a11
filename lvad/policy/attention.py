r"""Attention of completions that share a prompt, without copying the prompt's keys and without a mask.

A completion's token attends to the whole prompt and to the earlier tokens of its own completion:

    query \\ key   prompt   c_1     c_2
    c_1           all      causal   .
    c_2           all       .      causal

The softmax over both parts is merged from two softmaxes, one per part, by their log-sum-exps (Dao et al. 2022,
arXiv:2205.14135, sec. 3.1). The prompt's part is one call for all completions of a scene, the completions' part a
plain causal call. With the merged output and log-sum-exp, the backward pass of each part by itself gives the exact
gradient of the whole (Liu et al. 2023, Ring Attention, arXiv:2310.01889). So nothing is computed for pairs of tokens
that do not attend to each other.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lvad.policy.attention_blocks import causal_backward, full_backward
from lvad.policy.packing import Packing
from lvad.policy.plain_attention import plain_attend, plain_backward


class PartialAttention(NamedTuple):
    """Output and log-sum-exp of attention over a subset of the keys, from which the whole is merged."""

    out: Tensor
    """float[B, T, H, D]."""
    lse: Tensor
    """float[B, T, H], log of the sum of the exponentiated scores."""


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> PartialAttention:
    """Compute softmax attention with its log-sum-exp, by the fastest exact kernel of the device.

    Args:
        q: float[B, T, H, D].
        k: float[B, S, G, D] of S keys; the H heads share G key heads, H / G to each.
        v: float[B, S, G, D].
        scale: of the scores.
        causal: query t attends to the keys up to t; then S = T.
    """
    # The kernels have heads before tokens; they read views, so nothing is copied.
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if q.is_cpu:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
    elif _has_cuda_kernel(q):
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)[:2]
    else:
        out, lse = plain_attend(q, k, v, scale, causal)
    return PartialAttention(out.transpose(1, 2), lse.transpose(1, 2))


def attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, part: PartialAttention, scale: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of q, k and v, in their shapes.

    Args:
        grad: float[B, T, H, D], of the output.
        q: float[B, T, H, D].
        k: float[B, S, G, D] of S keys.
        v: float[B, S, G, D].
        part: output and log-sum-exp over all keys that the queries attended to, these and others.
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
    """Whether PyTorch's flash kernel takes these: half precision, Ampere or newer, a head of at most 256 numbers."""
    is_half = q.dtype in (torch.float16, torch.bfloat16)
    size = q.shape[-1]
    return q.is_cuda and is_half and size % 8 == 0 and size <= 256 and _capability(q.device) >= (8, 0)


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def merge_partial(first: PartialAttention, second: PartialAttention) -> PartialAttention:
    """Merge attention over two subsets of the keys into attention over both."""
    return PartialAttention(merge_outputs(first, second), torch.logaddexp(first.lse, second.lse))


def merge_outputs(first: PartialAttention, second: PartialAttention) -> Tensor:
    """Average two outputs with weights exp(lse); the normalised weight of the first is one sigmoid."""
    weight = (first.lse - second.lse).sigmoid().unsqueeze(-1).to(first.out.dtype)
    return torch.lerp(second.out, first.out, weight)


class TreeAttention(torch.autograd.Function):
    """Causal attention inside each completion, and full attention to the prompt of its scene if there is one.

    Tokens are packed: q float[N, H, D], k and v float[N, G, D]. The prompts' keys and values float[S, G, D] have a
    packing of their own, with the same groups of the same scenes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        packing: Packing,
        prompts: Packing | None,
        scale: float,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        prompt_k: Tensor | None,
        prompt_v: Tensor | None,
    ) -> Tensor:
        """Compute the output float[N, H, D]."""
        ctx.packings, ctx.scale = (packing, prompts), scale
        parts = [_attend_grid(group, scale) for group in _grids(packing, prompts, (q, k, v), (prompt_k, prompt_v))]
        out, lse = packing.from_grids([p.out for p in parts]), packing.from_grids([p.lse for p in parts])
        ctx.save_for_backward(q, k, v, prompt_k, prompt_v, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of q, k, v and of the prompts' keys and values."""
        q, k, v, prompt_k, prompt_v, out, lse = ctx.saved_tensors
        packing, prompts = ctx.packings
        groups = zip(
            _grids(packing, prompts, (q, k, v), (prompt_k, prompt_v)),
            packing.to_grids(grads[0], fill_zero=True),  # padding repeats a real token, which must not count again
            packing.to_grids(out),
            packing.to_grids(lse),
            strict=True,
        )
        parts = [_grid_backward(group, grad, PartialAttention(o, e), ctx.scale) for group, grad, o, e in groups]
        columns = list(zip(*parts, strict=True))
        of_prompts = (
            (None, None) if prompts is None else (prompts.from_grids(columns[3]), prompts.from_grids(columns[4]))
        )
        return None, None, None, *(packing.from_grids(column) for column in columns[:3]), *of_prompts


class _AttentionGrids(NamedTuple):
    """Queries, keys and values of one group of scenes, in the cells of its grid."""

    shape: tuple[int, int, int]
    """B scenes, K completions, T tokens."""
    q: Tensor
    """float[B K T, H, D]."""
    k: Tensor
    """float[B K T, G, D]."""
    v: Tensor
    """float[B K T, G, D]."""
    prompt_k: Tensor | None
    """float[B, P, G, D]; None in the prompt pass."""
    prompt_v: Tensor | None
    """float[B, P, G, D]; None in the prompt pass."""


def _grids(
    packing: Packing, prompts: Packing | None, own: tuple[Tensor, ...], prompt: tuple[Tensor | None, ...]
) -> list[_AttentionGrids]:
    shapes = [grid.shape for grid in packing.grids]
    q, k, v = (packing.to_grids(x) for x in own)
    if prompts is None:
        return [_AttentionGrids(*row, None, None) for row in zip(shapes, q, k, v, strict=True)]
    prompt_k, prompt_v = (prompts.to_scene_grids(x) for x in prompt if x is not None)
    return [_AttentionGrids(*row) for row in zip(shapes, q, k, v, prompt_k, prompt_v, strict=True)]


def _attend_grid(group: _AttentionGrids, scale: float) -> PartialAttention:
    num_scenes, num_completions, _ = group.shape
    q, k, v = (_per_sequence(num_scenes * num_completions, x) for x in (group.q, group.k, group.v))
    own = attend(q, k, v, scale, causal=True)
    own = PartialAttention(own.out.flatten(0, 1), own.lse.flatten(0, 1))
    if group.prompt_k is None or group.prompt_v is None:
        return own
    # The queries of all completions are one sequence: each attends to the whole prompt, so its keys are read once.
    prompt = attend(_per_sequence(num_scenes, group.q), group.prompt_k, group.prompt_v, scale, causal=False)
    return merge_partial(PartialAttention(prompt.out.flatten(0, 1), prompt.lse.flatten(0, 1)), own)


def _grid_backward(group: _AttentionGrids, grad: Tensor, part: PartialAttention, scale: float) -> tuple[Tensor, ...]:
    num_scenes, num_completions, _ = group.shape

    def backward(batch: int, k: Tensor, v: Tensor, causal: bool) -> list[Tensor]:
        # With output and log-sum-exp over both subsets of keys, each subset's backward gives its share of the gradient.
        grad_part, q, out, lse = (_per_sequence(batch, x) for x in (grad, group.q, *part))
        grads = attend_backward(grad_part, q, k, v, PartialAttention(out, lse), scale, causal)
        return [x.flatten(0, 1) for x in grads]

    num_rows = num_scenes * num_completions
    own_k, own_v = (_per_sequence(num_rows, x) for x in (group.k, group.v))
    gq, gk, gv = backward(num_rows, own_k, own_v, causal=True)
    if group.prompt_k is None or group.prompt_v is None:
        return gq, gk, gv
    gq_prompt, *g_prompt = backward(num_scenes, group.prompt_k, group.prompt_v, causal=False)
    return gq + gq_prompt, gk, gv, *g_prompt


def _per_sequence(num_sequences: int, cells: Tensor) -> Tensor:
    """[N, T, ...] from [N T, ...], for N sequences."""
    return cells.unflatten(0, (num_sequences, -1))
