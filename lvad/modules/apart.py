"""Gradients of a part that is trained beside the policy, such as a critic."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def without_gradients(part: nn.Module) -> Iterator[None]:
    """Set the gradients of a part aside for the time of a block."""
    gradients = {parameter: parameter.grad for parameter in part.parameters()}
    part.zero_grad()
    try:
        yield
    finally:
        for parameter, gradient in gradients.items():
            parameter.grad = gradient


def touched(part: nn.Module) -> Tensor:
    """Zero, by every parameter of a part: on several devices it is an error if one takes no part in a loss."""
    return torch.stack([0.0 * parameter.sum() for parameter in part.parameters()]).sum()
