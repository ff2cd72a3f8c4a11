"""What a stage does with a model that only judges: nothing trains it."""

from typing import Any

from torch import nn


def freeze_module(judge: object, name: str) -> Any:
    """A judge whose weights are not trained, whatever its author left open.

    Raises:
        ValueError: if it is no module, which would stay on the CPU.
    """
    if not isinstance(judge, nn.Module):
        raise ValueError(f"{name} must be an nn.Module, got {type(judge).__name__}")
    return judge.requires_grad_(False)
