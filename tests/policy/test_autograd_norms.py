"""The formula of the gradient against differences, and the layer against that of transformers."""

import copy

import pytest
import torch
from learning import said_and_learnt
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from lvad.policy.autograd_functions import RMSNorm, patch_norms


def test_by_hand():
    """Mean square of (3, 4) is 12.5; with eps 3.5 the scale is 1/4. Of y_1 = 2 n_1: g_n = (2, 0), mean(g_n n) = 3/4."""
    x = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    y = RMSNorm.apply(x[None], torch.tensor([2.0, 1.0], dtype=torch.float64), 3.5)
    assert y.tolist() == [pytest.approx([1.5, 1.0])]
    (grad,) = torch.autograd.grad(y[0, 0], x)
    # 1/4 (2 - 3/4 * 3/4, 0 - 1 * 3/4)
    assert grad.tolist() == pytest.approx([23 / 64, -3 / 16])


@pytest.mark.parametrize("trains_weight", [True, False])
def test_gradients_are_those_of_differences(trains_weight):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, dtype=torch.float64, requires_grad=trains_weight)
    torch.autograd.gradcheck(lambda x, w: RMSNorm.apply(x, w, 1e-3), (x, weight))
    expected = F.rms_norm(x, (5,), weight, 1e-3)
    torch.testing.assert_close(RMSNorm.apply(x, weight, 1e-3), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_layer_says_and_learns_what_that_of_transformers_does(dtype, tolerance):
    torch.manual_seed(0)
    plain = LlamaRMSNorm(64).to(dtype)
    torch.nn.init.normal_(plain.weight)
    lean = copy.deepcopy(plain)
    patch_norms(torch.nn.ModuleList([lean]))
    assert lean.forward.__func__ is not plain.forward.__func__
    results = [said_and_learnt(layer, 64, dtype) for layer in (plain, copy.deepcopy(lean))]
    for ours, theirs in zip(*results, strict=True):
        assert (ours.float() - theirs.float()).norm() <= tolerance * theirs.float().norm()
