"""What the stages share: what is optimised, and what a resume checkpoint holds."""

from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn


def make_optimizer(module: nn.Module, optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None) -> Any:
    """Build what ``configure_optimizers`` returns: an optimizer of the trained parameters, scheduled per step.

    Raises:
        ValueError: if nothing is trained.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError(f"{type(module).__name__} has no trained parameter: give it lora, or unfreeze a part")
    made = optimizer(trained)
    if lr_scheduler is None:
        return made
    return [made], [{"scheduler": lr_scheduler(made), "interval": "step"}]


def keep_trained_weights(checkpoint: dict[str, Any], module: nn.Module) -> None:
    """Drop frozen weights (reward, vision tower, base of the adapters) from a Lightning checkpoint, in place.

    They are loaded from the folders that the configuration names, so ``strict_loading`` must be off.
    """
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
