"""Freeze the modules that a stage uses but does not train, such as its reward."""

from typing import Any

from torch import nn


def freeze_module(module: object, name: str) -> Any:
    """Switch off the gradients of all weights of a module, and return the module.

    Raises:
        ValueError: if it is no ``nn.Module``, which Lightning would leave on the CPU.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"{name} must be an nn.Module, got {type(module).__name__}")
    return module.requires_grad_(False)
