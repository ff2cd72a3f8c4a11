"""Base classes of the stages: how batches count in an optimizer step, and how weights are sharded (FSDP2)."""

from typing import Final

import torch
from lightning import LightningModule
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from lvad.errors import DataError

_STEPS: Final = ("training_step", "validation_step", "test_step", "predict_step")


class MeanOverScenes(LightningModule):
    """A stage whose optimizer step is the mean over its scenes, also when unequal batches are accumulated.

    Lightning divides the loss of each batch by ``accumulate_grad_batches``. At the end of an epoch that is wrong:
    the last step may have fewer batches, and the last batch fewer scenes. A step with the full number of equal batches
    stays the same to the bit. On several devices the batches of one moment must have one size, as those of lvad's
    own loaders do.
    """

    def __init__(self) -> None:
        super().__init__()
        self._num_scenes: list[int] = []  # of each batch since the last optimizer step

    def scaled_loss(self, loss: Tensor, num_scenes: int) -> Tensor:
        """Scale a batch's loss, a mean over its scenes, for the backward pass of its optimizer step: float[]."""
        self._num_scenes.append(num_scenes)
        return loss if num_scenes == self._num_scenes[0] else loss * (num_scenes / self._num_scenes[0])

    def on_train_start(self) -> None:
        """Start without counts: a resumed run has no gradient of an interrupted step, nor of a trial step."""
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
    """A stage that FSDP2 can shard: its weights are whole during a step and sharded between steps.

    All weights are one group: a step runs the policy's layers in an order of its own, first for the prompts and then
    for the completions, which hooks on single layers would not follow.
    """

    def configure_model(self) -> None:
        """Shard the weights if the strategy, Lightning's ``ModelParallelStrategy``, has a mesh of devices.

        Raises:
            DataError: for a trained weight that is a single number, which cannot be sharded.
        """
        if self.device_mesh is None or isinstance(self, FSDPModule):
            return
        numbers = {name: p for name, p in self.named_parameters() if p.dim() == 0}
        if trained := [name for name, p in numbers.items() if p.requires_grad]:
            raise DataError(f"{trained[0]} is a single number, which cannot be sharded; take configs/strategy/ddp.yaml")
        fully_shard(self, mesh=self.device_mesh["data_parallel"], ignored_params=set(numbers.values()))
        for name in _STEPS:
            register_fsdp_forward_method(self, name)
