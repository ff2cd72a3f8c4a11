"""What the stages share: how batches count, how weights are shared out, what is optimised, what a checkpoint holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from lvad.errors import DataError

_STEPS: Final = ("training_step", "validation_step", "test_step", "predict_step")


class MeanOverScenes(LightningModule):
    """A stage whose batches count by their scenes in the optimizer step that they are accumulated for.

    Lightning divides the loss of each batch by ``accumulate_grad_batches``. At the end of an epoch that is not right:
    the last step may have fewer batches, and the last batch fewer scenes. Steps of equal batches, as many as they
    should be, stay as they are to the bit. On several devices the batches of one moment must be of one size, as those
    of lvad's own loaders are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._num_scenes: list[int] = []  # of each batch since the last optimizer step

    def for_backward(self, loss: Tensor, num_scenes: int) -> Tensor:
        """The loss of a batch, which is a mean over its scenes, as the backward pass of its step needs it: float[]."""
        self._num_scenes.append(num_scenes)
        return loss if num_scenes == self._num_scenes[0] else loss * (num_scenes / self._num_scenes[0])

    def on_train_start(self) -> None:
        """Begin anew: a resumed run has no gradient of a step that was broken off, nor of a batch that was tried."""
        self._num_scenes = []

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the accumulated gradient the mean over the step's scenes, before it is measured and clipped."""
        counts, self._num_scenes = self._num_scenes, []
        divided_by = self.trainer.accumulate_grad_batches * counts[0]
        if divided_by == sum(counts):
            return
        for gradient in (parameter.grad for parameter in self.parameters()):
            if gradient is not None:
                gradient.mul_(divided_by / sum(counts))


class Shardable(MeanOverScenes):
    """A stage whose weights are whole during a step, and shared out (FSDP2) between steps.

    All weights are one group: a step reads the policy's layers in an order of its own, prompts once and completions
    behind them, which hooks layer by layer would not follow.
    """

    def configure_model(self) -> None:
        """Share the weights out where the strategy, Lightning's ``ModelParallelStrategy``, has a mesh of devices.

        Raises:
            DataError: for a trained weight that is a single number, which cannot be shared out.
        """
        if self.device_mesh is None or isinstance(self, FSDPModule):
            return
        numbers = {name: p for name, p in self.named_parameters() if p.dim() == 0}
        if trained := [name for name, p in numbers.items() if p.requires_grad]:
            raise DataError(
                f"{trained[0]} is a single number, which cannot be shared out; take configs/strategy/ddp.yaml"
            )
        fully_shard(self, mesh=self.device_mesh["data_parallel"], ignored_params=set(numbers.values()))
        for name in _STEPS:
            register_fsdp_forward_method(self, name)


def make_optimizer(
    module: nn.Module,
    optimizer: OptimizerCallable,
    lr_scheduler: LRSchedulerCallable | None,
    apart: nn.Module | None = None,
    lr_apart: float | None = None,
) -> Any:
    """Build what ``configure_optimizers`` returns: an optimizer of the trained parameters with its schedule.

    A schedule counts optimizer steps, but for Lightning's ``ReduceLROnPlateau``, which counts validations.

    Args:
        module: whose parameters are trained.
        optimizer: as configured.
        lr_scheduler: as configured.
        apart: a part of the module with a learning rate of its own.
        lr_apart: that rate.

    Raises:
        ValueError: if nothing is trained beside that part.
    """
    others = [] if apart is None else [parameter for parameter in apart.parameters() if parameter.requires_grad]
    ids = {id(parameter) for parameter in others}
    trained = [p for p in module.parameters() if p.requires_grad and id(p) not in ids]
    if not trained:
        raise ValueError(f"{type(module).__name__} has no trained parameter: give it lora, or unfreeze a part")
    groups: Any = [{"params": trained}, {"params": others, "lr": lr_apart, "name": "critic"}] if others else trained
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
    """Take PyTorch's fused update where the optimizer has one and nobody chose another.

    It is set behind the constructor, which would also claim the scaling of 16-bit gradients: Lightning then refuses to
    clip them.
    """
    for group in optimizer.param_groups:
        is_open = "fused" in group and group["fused"] is None and group.get("foreach") is None
        if is_open and all(_has_fused_kernel(parameter) for parameter in group["params"]):
            group["fused"] = True


def _has_fused_kernel(parameter: nn.Parameter) -> bool:
    return parameter.is_cuda and parameter.is_floating_point()


def keep_trained_weights(checkpoint: dict[str, Any], module: nn.Module) -> None:
    """Drop frozen weights (reward, vision tower, base of the adapters) from a Lightning checkpoint, in place.

    What is trained stays, and the buffers of the module itself and of its parts with ``keeps_buffers``: numbers that
    the run has found. Frozen weights are loaded from the folders that the configuration names, so ``strict_loading``
    must be off; ``check_trained_weights`` stands in for it.
    """
    kept = _kept_names(module)
    checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}


def check_trained_weights(state: Mapping[str, Tensor], module: nn.Module, path: str | Path | None) -> None:
    """Refuse the weights of another model: loading would leave what it lacks as it starts, without a word.

    Args:
        state: what ``keep_trained_weights`` kept.
        module: what it is loaded into.
        path: the checkpoint, for the message.

    Raises:
        DataError: where a trained weight is missing or of another shape, or one is there that is not trained.
    """
    own = module.state_dict()
    wanted = {name: tuple(own[name].shape) for name in _kept_names(module) if name in own}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if lacking := sorted(wanted.keys() - found.keys()):
        problem = f"lacks {len(lacking)} of the {len(wanted)} weights that this configuration trains: {lacking[:3]}"
    elif surplus := sorted(found.keys() - wanted.keys()):
        problem = f"holds {len(surplus)} weights that this configuration does not train: {surplus[:3]}"
    elif other := sorted(name for name in wanted if wanted[name] != found[name]):
        shapes = f"{list(found[other[0]])}, this configuration makes it {list(wanted[other[0]])}"
        problem = f"holds {len(other)} weights of another shape: {other[0]} is {shapes}"
    else:
        return
    remedy = "take the checkpoint and the configuration of one and the same run"
    raise DataError.at(path or "the checkpoint", "", problem, remedy)


def check_checkpoint_of(module: LightningModule, checkpoint: Mapping[str, Any]) -> None:
    """The same for a checkpoint that Lightning loads.

    A strategy that shares weights out loads them itself, and hands on the rest: they are read from the file again. A
    folder of shards is not looked into.

    Raises:
        DataError: for the weights of another model.
    """
    path = module._trainer.ckpt_path if module._trainer else None
    if "state_dict" not in checkpoint:
        if path is None or not Path(path).is_file():
            return
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    check_trained_weights(checkpoint["state_dict"], module, path)


def _kept_names(module: nn.Module) -> set[str]:
    kept = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    for name, part in module.named_modules():
        if part is module or getattr(part, "keeps_buffers", False):
            kept |= {f"{name}.{buffer}".lstrip(".") for buffer, _ in part.named_buffers(recurse=False)}
    return kept
