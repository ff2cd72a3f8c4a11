"""The same products, whatever stands in a layer's place."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lvad.policy.decoder import fused_linear


@pytest.mark.parametrize("biases", [(False,), (True,), (False, False), (True, False, True)], ids=str)
@pytest.mark.parametrize("rows", [1, 8, 33])
@pytest.mark.parametrize("laid_out_for", [1, 8, 64])
def test_products_are_those_of_the_layers_side_by_side(laid_out_for, rows, biases):
    torch.manual_seed(0)
    layers = [nn.Linear(512, 300 + 100 * i, bias=bias) for i, bias in enumerate(biases)]
    x = torch.randn(rows, 512)
    made = fused_linear(layers, laid_out_for)(x)
    assert not made.requires_grad
    torch.testing.assert_close(made, torch.cat([layer(x) for layer in layers], -1), rtol=1e-5, atol=1e-5)


def test_weights_are_read_when_the_product_is_made():
    layer, x = nn.Linear(512, 512), torch.randn(2, 512)
    for _ in range(2):
        torch.testing.assert_close(fused_linear([layer], 2)(x), layer(x))
        with torch.no_grad():
            layer.weight.mul_(3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    layers, x = [nn.Linear(512, 300).to(dtype), nn.Linear(512, 300).to(dtype)], torch.randn(2, 512, dtype=dtype)
    expected = torch.cat([layer(x) for layer in layers], -1)
    torch.testing.assert_close(
        fused_linear(layers, 2)(x), expected, rtol=1e-12 if dtype is torch.float64 else 0, atol=0
    )


def test_half_precision_beside_full_weights_is_left_to_the_layer():
    layer, x = nn.Linear(512, 512), torch.randn(2, 512)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert torch.equal(fused_linear([layer], 2)(x), layer(x))


@pytest.fixture
def adapted():
    torch.manual_seed(0)
    model = get_peft_model(nn.Sequential(nn.Linear(512, 512)), LoraConfig(r=4, target_modules=["0"]))
    nn.init.normal_(model.base_model.model[0].lora_B["default"].weight)
    return model


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize("is_merged", [True, False])
def test_adapters_count_while_they_are_on(adapted, is_merged, is_on):
    (layer,), x = adapted.base_model.model, torch.randn(2, 512)
    weight = layer.base_layer.weight.clone()
    with torch.no_grad():
        expected = layer(x) if is_on else layer.base_layer(x)
        if is_merged:
            adapted.merge_adapter()
        if not is_on:
            adapted.base_model.disable_adapter_layers()
        torch.testing.assert_close(fused_linear([layer], 2)(x), expected, rtol=1e-5, atol=1e-4)
    assert is_merged or torch.equal(layer.base_layer.weight, weight)


def test_foreign_layers_multiply_by_themselves():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    plain, doubled, x = nn.Linear(512, 512), Doubled(512, 512), torch.randn(2, 512)
    patched = nn.Linear(512, 512)
    patched.forward = lambda x: x
    expected = torch.cat([plain(x), 2 * nn.functional.linear(x, doubled.weight, doubled.bias), x], -1)
    with torch.no_grad():
        torch.testing.assert_close(fused_linear([plain, doubled, patched], 2)(x), expected)
