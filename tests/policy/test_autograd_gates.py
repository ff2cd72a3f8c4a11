"""The gated layer against that of transformers."""

import copy

import pytest
import torch
from learning import said_and_learnt
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from lvad.policy.autograd_functions import SwiGLU, patch_gates


def test_by_hand():
    """At gate 0: silu = 0 and its slope is 1/2, so y = 0, dy/dgate = up / 2, dy/dup = 0."""
    gate, up = torch.zeros(1, requires_grad=True), torch.full((1,), 6.0, requires_grad=True)
    y = SwiGLU.apply(gate, up)
    y.backward()
    assert (y.item(), gate.grad.item(), up.grad.item()) == (0, 3, 0)


def test_gradients_are_those_of_differences():
    torch.manual_seed(0)
    gate, up = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    torch.autograd.gradcheck(SwiGLU.apply, (gate, up))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_layer_says_and_learns_what_that_of_transformers_does(dtype):
    torch.manual_seed(0)
    plain = LlamaMLP(LlamaConfig(hidden_size=16, intermediate_size=24, num_attention_heads=2)).to(dtype)
    lean = copy.deepcopy(plain)
    patch_gates(torch.nn.ModuleList([lean]))
    assert lean.forward.__func__ is not plain.forward.__func__
    results = [said_and_learnt(layer, 16, dtype) for layer in (plain, copy.deepcopy(lean))]
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_an_activation_less_is_kept():
    gate, up = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        SwiGLU.apply(gate, up)
    assert [x.data_ptr() for x in kept] == [gate.data_ptr(), up.data_ptr()]


def test_other_activations_are_left_alone():
    layer = LlamaMLP(LlamaConfig(hidden_size=16, intermediate_size=24, num_attention_heads=2, hidden_act="gelu"))
    patch_gates(torch.nn.ModuleList([layer]))
    assert type(layer) is LlamaMLP
