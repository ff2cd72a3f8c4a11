"""The optimizer that a stage is given: its kernel is the one that a device has, unless another one is chosen."""

import pytest
import torch
from torch import nn

from lvad.optimizers import make_optimizer


def updated(optimizer):
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    made = make_optimizer(layer, optimizer, None)
    for _ in range(2):
        layer(torch.ones(1, 3)).sum().backward()
        made.step()
    return layer.weight.detach(), made


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_weights_of_a_device_with_the_kernel_are_updated_by_it(optimizer, monkeypatch):
    def make(groups):
        return optimizer(groups, lr=0.1)

    plain, _ = updated(make)
    monkeypatch.setattr("lvad.optimizers._has_fused_kernel", lambda parameter: True)
    fused, made = updated(make)
    assert made.param_groups[0]["fused"] is True
    torch.testing.assert_close(fused, plain)
    # With it Lightning would refuse to clip the gradients of 16-mixed.
    assert not getattr(made, "_step_supports_amp_scaling", False)


@pytest.mark.parametrize("option", [{"fused": False}, {"foreach": True}], ids=str)
def test_a_chosen_kernel_stays(option, monkeypatch):
    monkeypatch.setattr("lvad.optimizers._has_fused_kernel", lambda parameter: True)
    _, made = updated(lambda groups: torch.optim.AdamW(groups, **option))
    assert made.param_groups[0]["fused"] is option.get("fused")


def test_on_a_cpu_the_update_is_that_of_before():
    _, made = updated(torch.optim.AdamW)
    assert made.param_groups[0]["fused"] is None
