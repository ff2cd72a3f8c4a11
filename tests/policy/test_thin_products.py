"""The same products, and layers that are left as they were."""

import pytest
import torch
from torch import nn

from lvad.policy.thin_products import thin_products


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 8, 33])
@pytest.mark.parametrize("laid_out_for", [1, 8, 64])
def test_products_are_those_of_the_layer(laid_out_for, rows, bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(512, 700, bias=bias), torch.randn(1, rows, 512)
    expected = layer(x)
    with torch.no_grad(), thin_products([layer], laid_out_for):
        assert "forward" in vars(layer)
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert "forward" not in vars(layer)
    assert layer(x).requires_grad


def test_new_weights_are_seen_the_next_time():
    layer, x = nn.Linear(512, 512), torch.randn(2, 512)
    for _ in range(2):
        with torch.no_grad(), thin_products([layer], 2):
            torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
        with torch.no_grad():
            layer.weight.mul_(3)


def test_small_wide_and_foreign_layers_are_left_alone_and_an_error_leaves_nothing_behind():
    class Other(nn.Linear):
        pass

    large = nn.Linear(512, 512)
    others = [nn.Linear(8, 8), nn.Linear(512, 512).double(), Other(512, 512), nn.LayerNorm(512)]
    with torch.no_grad(), thin_products([large, *others], 2):
        assert not any("forward" in vars(module) for module in others)
    with pytest.raises(RuntimeError, match=r"size|mat"), thin_products([large], 2):
        large(torch.randn(2, 3))
    assert "forward" not in vars(large)
    with torch.autocast("cpu", dtype=torch.bfloat16), thin_products([large], 2):
        assert "forward" not in vars(large)
