"""Weights that FSDP2 shards over devices: gather them, load them, and compute the norm of their gradients."""

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
    """Gather the whole weights on every device inside a block, which may read but must not change them.

    Every device must enter the block. Nothing happens to a module that is not sharded.
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
    """Load whole weights into a module, sharded or not; its other weights stay.

    Returns:
        The names of weights that the module lacks.
    """
    if not isinstance(module, FSDPModule):
        return module.load_state_dict(weights, strict=False).unexpected_keys
    options = StateDictOptions(full_state_dict=True, strict=False)
    return set_model_state_dict(module, dict(weights), options=options).unexpected_keys


def total_norm(gradients: list[Tensor]) -> Tensor:
    """Compute the norm of all gradients together, float[], over the shards of all devices."""
    norm: Any = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
