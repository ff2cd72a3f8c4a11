"""Blocks against the kernel in one piece, in float64."""

import pytest
import torch

from lvad.policy import attention_blocks
from lvad.policy.attention import attend
from lvad.policy.attention_blocks import causal_backward, full_backward

HEADS, GROUPS, WIDTH, SCALE = 6, 3, 8, 0.3


@pytest.fixture
def sizes(monkeypatch):
    """Blocks of a few tokens, and the calls of the kernel: sequences, queries, keys."""
    monkeypatch.setattr(attention_blocks, "_SMALLEST_SQUARE", 4)
    monkeypatch.setattr(attention_blocks, "_FEWEST_KEYS", 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    calls, kernel = [], attention_blocks._kernel
    monkeypatch.setattr(
        attention_blocks,
        "_kernel",
        lambda x, *rest, **options: calls.append((*x[0].shape[:2], x[2].shape[1])) or kernel(x, *rest, **options),
    )
    return calls


def make(batch, queries, keys, causal, shift=0.0):
    torch.manual_seed(0)
    q = torch.randn(batch, queries, HEADS, WIDTH, dtype=torch.float64)
    k, v = torch.randn(2, batch, keys, GROUPS, WIDTH, dtype=torch.float64)
    q[..., 0], k[..., 0] = 1.0, shift / SCALE
    part = attend(q, k, v, SCALE, causal)
    # Over more keys than these, as where several parts are put together.
    return torch.randn_like(q), q, k, v, torch.randn_like(part.out), part.lse + 0.5


def assert_same(found, inputs, causal):
    heads_first = [x.transpose(1, 2) for x in inputs]
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    for ours, theirs in zip(found, backward(*heads_first, 0.0, causal, scale=SCALE), strict=True):
        torch.testing.assert_close(ours, theirs.transpose(1, 2), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shift", [0.0, -500.0, 500.0])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("length", [1, 3, 8, 9, 16, 21, 33])
def test_a_causal_square_in_blocks(sizes, length, batch, shift):
    inputs = make(batch, length, length, True, shift)
    assert_same(causal_backward(inputs, SCALE), inputs, True)


def test_blocks_hold_what_is_seen_and_little_else(sizes):
    causal_backward(make(1, 16, 16, True), SCALE)
    squares = [call for call in sizes if call[0] == 4]
    assert squares == [(4, 4, 4)]
    seen = sum(sequences * queries * keys for sequences, queries, keys in sizes)
    assert seen == 4 * 4 * 4 + 2 * 4 * 4 + 8 * 8


@pytest.mark.parametrize("shift", [0.0, -500.0, 500.0])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("keys", [1, 3, 8, 11])
@pytest.mark.parametrize("threads", [1, 2, 8])
def test_all_keys_in_strips(sizes, monkeypatch, threads, keys, batch, shift):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    inputs = make(batch, 5, keys, False, shift)
    assert_same(full_backward(inputs, SCALE), inputs, False)
    assert sum(sequences * width for sequences, _, width in sizes) == batch * keys


def test_every_core_has_two_tasks_if_there_are_keys(sizes, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    full_backward(make(1, 5, 9, False), SCALE)
    assert sizes == [(2, 5, 4), (1, 5, 1)]
    assert sizes[0][0] * GROUPS >= 2 * 2
