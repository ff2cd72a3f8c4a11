"""Base classes of the stages: how batches count in an optimizer step, and how weights are sharded (FSDP2)."""

from typing import Final

import torch
from lightning import LightningModule
from torch import Tensor
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

    def scaled_loss(self, loss: Tensor, num_scenes: int) -> Tensor:
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
