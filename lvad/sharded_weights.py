"""Weights that are shared out over devices (FSDP2): how to have them whole, and how to load them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


@contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Give every device the whole weights for the time of a block, which may read and must not change them.

    All devices must come by. Nothing happens to a module that is not shared out.
    """
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> list[str]:
    """Put whole weights into a module, shared out or not; its other weights stay.

    Returns:
        The names that the module lacks.
    """
    if not isinstance(module, FSDPModule):
        return module.load_state_dict(weights, strict=False).unexpected_keys
    options = StateDictOptions(full_state_dict=True, strict=False)
    return set_model_state_dict(module, dict(weights), options=options).unexpected_keys


def total_norm(gradients: list[Tensor]) -> Tensor:
    """float[], the norm of all gradients together, the shares of all devices included."""
    norm: Any = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
