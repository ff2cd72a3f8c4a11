"""Attention put together from parts against one softmax with a dense mask, values and gradients in float64."""

import pytest
import torch

from lvad.policy.attention import (
    PartialAttention,
    TreeAttention,
    _has_cuda_kernel,
    attend,
    attend_backward,
    merge_partial,
)
from lvad.policy.packing import completion_packing, prompt_packing
from lvad.policy.plain_attention import plain_attend, plain_backward

HEADS, GROUPS, WIDTH, SCALE = 4, 2, 8, 0.3
CASES = {
    "one scene": ([5], [[3, 3]]),
    "ragged": ([5], [[3, 0, 1, 2]]),
    "two prompts of one length": ([4, 4], [[2, 3], [1, 3]]),
    "three lengths": ([3, 6, 3], [[2, 2], [0, 4], [1, 0]]),
    "a scene without tokens": ([3, 3], [[0, 0], [2, 1]]),
}


def rows(*shape):
    return torch.randn(*shape, WIDTH, dtype=torch.float64, requires_grad=True)


def dense(lengths, fed, q, k, v, prompt_k, prompt_v):
    """One softmax over all prompts and completions, with a mask that is written down token by token."""
    owner = [(b, c, t) for b, row in enumerate(fed) for c, size in enumerate(row) for t in range(size)]
    prompt = [b for b, length in enumerate(lengths) for _ in range(length)] if prompt_k is not None else []
    sees = [[b == p for p in prompt] + [b == d and c == e and t >= u for d, e, u in owner] for b, c, t in owner]
    keys, values = ((x if y is None else torch.cat([y, x])) for x, y in ((k, prompt_k), (v, prompt_v)))
    keys, values = (x.repeat_interleave(HEADS // GROUPS, 1) for x in (keys, values))
    scores = torch.einsum("nhd,shd->hns", q, keys) * SCALE
    probs = scores.masked_fill(~torch.tensor(sees), -torch.inf).softmax(-1)
    return torch.einsum("hns,shd->nhd", probs, values)


@pytest.mark.parametrize("with_prompts", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_one_masked_softmax(case, with_prompts):
    torch.manual_seed(0)
    lengths, fed = CASES[case]
    sizes = torch.tensor(fed)
    packing = completion_packing(fed, lengths, torch.device("cpu"))
    num, num_prompt = int(sizes.sum()), sum(lengths)
    tensors = [rows(num, HEADS), rows(num, GROUPS), rows(num, GROUPS)]
    prompts, behind = None, [None, None]
    if with_prompts:
        prompts = prompt_packing(lengths, torch.device("cpu"))
        behind = [rows(num_prompt, GROUPS), rows(num_prompt, GROUPS)]
    actual = TreeAttention.apply(packing, prompts, SCALE, *tensors, *behind)
    expected = dense(lengths, fed, *tensors, *behind)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)

    weights = torch.randn_like(actual)
    inputs = [x for x in (*tensors, *behind) if x is not None]
    ours = torch.autograd.grad((actual * weights).sum(), inputs)
    theirs = torch.autograd.grad((expected * weights).sum(), inputs)
    for ours_of, theirs_of in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_of, theirs_of, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("at_once", [1, 2 * HEADS * 5 * 2, 2**24], ids=["one query", "two queries", "all"])
@pytest.mark.parametrize("causal", [True, False])
def test_the_plain_products_agree_with_the_kernel(causal, at_once, monkeypatch):
    """What devices without a kernel compute, with a log-sum-exp over more keys than these."""
    monkeypatch.setattr("lvad.policy.plain_attention.SCORES_AT_ONCE", at_once)
    torch.manual_seed(0)
    q = torch.randn(2, 5, HEADS, WIDTH, dtype=torch.float64)
    k, v = torch.randn(2, 2, 5, GROUPS, WIDTH, dtype=torch.float64)
    part = attend(q, k, v, SCALE, causal)
    out, lse = plain_attend(*(x.transpose(1, 2) for x in (q, k, v)), SCALE, causal)
    torch.testing.assert_close(out.transpose(1, 2), part.out)
    torch.testing.assert_close(lse.transpose(1, 2), part.lse)

    grad, more = torch.randn_like(q), PartialAttention(torch.randn_like(part.out), part.lse + 0.5)
    ours = attend_backward(grad, q, k, v, more, SCALE, causal)
    heads_first = [x.transpose(1, 2) for x in (grad, q, k, v, more.out, more.lse)]
    for kernel, plain in zip(ours, plain_backward(*heads_first, SCALE, causal), strict=True):
        torch.testing.assert_close(kernel, plain.transpose(1, 2))


def test_half_precision_by_plain_products_keeps_its_sums_in_float32():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, HEADS, 300, 64)
    exact = plain_attend(q, k, v, 0.125, True)
    out, lse = plain_attend(*(x.bfloat16() for x in (q, k, v)), 0.125, True)
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    rounded = plain_attend(*(x.bfloat16().float() for x in (q, k, v)), 0.125, True)
    assert (out.float() - rounded[0]).norm() < 0.01 * rounded[0].norm()
    torch.testing.assert_close(lse, rounded[1], rtol=0, atol=1e-5)
    assert (lse - exact[1]).abs().max() > 1e-4  # what the inputs' own rounding does


@pytest.mark.parametrize(
    ("capability", "dtype", "size", "has"),
    [
        ((8, 0), torch.bfloat16, 64, True),
        ((9, 0), torch.float16, 64, True),
        ((7, 5), torch.float16, 64, False),
        ((7, 0), torch.float16, 64, False),
        ((8, 0), torch.float32, 64, False),
        ((8, 0), torch.bfloat16, 60, False),
        ((8, 0), torch.bfloat16, 288, False),
    ],
)
def test_the_flash_kernel_needs_ampere_half_precision_and_its_head_sizes(capability, dtype, size, has, monkeypatch):
    monkeypatch.setattr("lvad.policy.attention._capability", lambda device: capability)

    class OnCuda:
        is_cuda, device, shape = True, torch.device("cuda"), (1, 1, 1, size)

    OnCuda.dtype = dtype
    assert _has_cuda_kernel(OnCuda()) is has


def test_merging_is_attention_to_the_keys_of_both():
    torch.manual_seed(0)
    q = torch.randn(1, 3, HEADS, WIDTH, dtype=torch.float64)
    k, v = torch.randn(2, 1, 7, GROUPS, WIDTH, dtype=torch.float64)
    parts = [attend(q, k[:, s], v[:, s], SCALE, False) for s in (slice(0, 4), slice(4, 7))]
    for merged, whole in zip(merge_partial(*parts), attend(q, k, v, SCALE, False), strict=True):
        torch.testing.assert_close(merged, whole)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cuda_device_gives_what_the_cpu_gives(dtype):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.manual_seed(0)
    lengths, fed = [33, 70, 33], [[2, 9], [0, 17], [5, 5]]
    num = sum(map(sum, fed))
    inputs = [torch.randn(n, h, 64) for n, h in ((num, 9), (num, 3), (num, 3), (136, 3), (136, 3))]
    results = []
    for device, kind in ((torch.device("cpu"), torch.float32), (torch.device("cuda"), dtype)):
        given = [x.to(device, kind).requires_grad_() for x in inputs]
        out = TreeAttention.apply(
            completion_packing(fed, lengths, device), prompt_packing(lengths, device), 0.125, *given
        )
        results.append([out, *torch.autograd.grad(out.float().square().sum(), given)])
    for cpu, cuda in zip(*results, strict=True):
        error = (cpu - cuda.cpu().float()).norm() / cpu.norm()
        assert error < {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
