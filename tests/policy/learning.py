"""What a layer says and learns, for comparing it with another."""

import torch


def said_and_learnt(layer, width, dtype):
    """The output for fixed rows, and the gradients of the rows and of the weights."""
    x = torch.randn(1, 7, width, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    y = layer(x)
    assert y.dtype == dtype
    return [y, *torch.autograd.grad(y.float().square().sum(), [x, *layer.parameters()])]
