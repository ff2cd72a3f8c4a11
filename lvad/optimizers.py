"""Builds the optimizer of a stage, with its schedule, from what the configuration gives."""

from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import nn


def make_optimizer(
    module: nn.Module,
    optimizer: OptimizerCallable,
    lr_scheduler: LRSchedulerCallable | None,
    critic: nn.Module | None = None,
    critic_lr: float | None = None,
) -> Any:
    """Build what ``configure_optimizers`` returns: an optimizer of the trained parameters with its schedule.

    A schedule counts optimizer steps, except Lightning's ``ReduceLROnPlateau``, which counts validations.

    Args:
        module: the stage whose parameters are trained.
        optimizer: as configured.
        lr_scheduler: as configured.
        critic: a part of the module with a learning rate of its own.
        critic_lr: that rate.

    Raises:
        ValueError: if no other parameter is trained.
    """
    others = [] if critic is None else [parameter for parameter in critic.parameters() if parameter.requires_grad]
    ids = {id(parameter) for parameter in others}
    trained = [p for p in module.parameters() if p.requires_grad and id(p) not in ids]
    if not trained:
        raise ValueError(f"{type(module).__name__} has no trained parameter: give it lora, or unfreeze a part")
    groups: Any = [{"params": trained}, {"params": others, "lr": critic_lr, "name": "critic"}] if others else trained
    made = optimizer(groups)
    _update_by_one_kernel(made)
    if lr_scheduler is None:
        return made
    scheduler = lr_scheduler(made)
    if isinstance(scheduler, ReduceLROnPlateau):  # waits for a validation score
        return {
            "optimizer": made,
            "lr_scheduler": {"scheduler": scheduler, "interval": "epoch", "monitor": scheduler.monitor},
        }
    return [made], [{"scheduler": scheduler, "interval": "step"}]


def _update_by_one_kernel(optimizer: Any) -> None:
    """Use PyTorch's fused update if the optimizer has one and none was chosen.

    It is set after the constructor, which would also take over the scaling of 16-bit gradients: Lightning then refuses
    to clip them.
    """
    for group in optimizer.param_groups:
        is_open = "fused" in group and group["fused"] is None and group.get("foreach") is None
        if is_open and all(_has_fused_kernel(parameter) for parameter in group["params"]):
            group["fused"] = True


def _has_fused_kernel(parameter: nn.Parameter) -> bool:
    return parameter.is_cuda and parameter.is_floating_point()
