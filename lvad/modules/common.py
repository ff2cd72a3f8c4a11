"""What the stages share: what is optimised, and what a resume checkpoint holds."""

from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import nn


def make_optimizer(module: nn.Module, optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None) -> Any:
    """Build what ``configure_optimizers`` returns: an optimizer of the trained parameters with its schedule.

    A schedule counts optimizer steps, but for Lightning's ``ReduceLROnPlateau``, which counts validations.

    Raises:
        ValueError: if nothing is trained.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError(f"{type(module).__name__} has no trained parameter: give it lora, or unfreeze a part")
    made = optimizer(trained)
    if lr_scheduler is None:
        return made
    scheduler = lr_scheduler(made)
    if isinstance(scheduler, ReduceLROnPlateau):  # waits for a validation score
        return {
            "optimizer": made,
            "lr_scheduler": {"scheduler": scheduler, "interval": "epoch", "monitor": scheduler.monitor},
        }
    return [made], [{"scheduler": scheduler, "interval": "step"}]


def keep_trained_weights(checkpoint: dict[str, Any], module: nn.Module) -> None:
    """Drop frozen weights (reward, vision tower, base of the adapters) from a Lightning checkpoint, in place.

    What is trained stays, and the module's own buffers: numbers that validation fitted. Frozen weights are loaded
    from the folders that the configuration names, so ``strict_loading`` must be off.
    """
    kept = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    kept |= {name for name, _ in module.named_buffers(recurse=False)}
    checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}
