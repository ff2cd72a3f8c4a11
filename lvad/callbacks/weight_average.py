"""Replaces the last weights of a fit by their mean over its last part."""

from typing import Any, Final

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from lvad.errors import DataError
from lvad.ops import running_mean
from lvad.trainer_queries import fit_progress

_KEY: Final = "weight_average"


class AverageWeights(Callback):
    """Averages the trained weights over the last optimizer steps, so that the last batches weigh less.

    The mean is what is validated, kept in checkpoints as the model's weights, tested and exported. Training goes on
    with the weights themselves, which a checkpoint holds beside the mean, so a resumed fit ends with the same bits.
    Lightning's own ``WeightAveraging`` copies the whole module, frozen judges and reference included, and averages
    buffers that are no weights.

    Args:
        last: share of the fit's optimizer steps, at their end, that the mean is taken over.

    Raises:
        ValueError: for a share outside (0, 1].

    Source:
        Izmailov et al. 2018 (arXiv:1803.05407), Algorithm 1, with the equal weights of every step and not of every
        epoch, and under the configured schedule.
    """

    def __init__(self, last: float = 0.25) -> None:
        if not 0 < last <= 1:
            raise ValueError(f"last must be in (0, 1], got {last}")
        self.last = last
        self.num_averaged = 0
        self._mean: dict[str, Tensor] = {}
        self._own: dict[str, Tensor] = {}  # the weights themselves, while the mean stands in their place
        self._step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start without a mean, before a checkpoint is read."""
        self.num_averaged, self._mean, self._own = 0, {}, {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse sharded weights.

        Raises:
            DataError: for weights that are sharded over devices.
        """
        if isinstance(pl_module, FSDPModule):
            raise DataError("sharded weights are not averaged; take AverageWeights out of trainer.callbacks")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue with the weights themselves if a checkpoint has given the mean."""
        self._step = trainer.global_step
        self._put_back(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the weights to the mean after an optimizer step."""
        if trainer.global_step == self._step:
            return  # within an accumulated step
        self._step = trainer.global_step
        if fit_progress(trainer) <= 1 - self.last:
            return
        self.num_averaged += 1
        for name, weight in _trained(pl_module).items():
            before = self._mean.get(name, weight).to(weight.device)  # a resumed fit's came before the device was known
            self._mean[name] = running_mean(before.float(), weight.float(), self.num_averaged)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the mean in place for the validation."""
        if trainer.state.fn == "fit":
            self._put_mean(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue with the weights themselves."""
        if trainer.state.fn == "fit":
            self._put_back(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the mean as the model's weights at the end of the fit."""
        self._put_mean(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the mean as the model's weights, and the weights themselves beside it."""
        if not self.num_averaged:
            return
        trained = _trained(pl_module)
        mean = {name: self._mean[name].to(weight.dtype) for name, weight in trained.items()}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **mean}
        checkpoint[_KEY] = {"num_averaged": self.num_averaged, "mean": self._mean, "own": self._own or trained}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the mean and the weights themselves in a resumed fit."""
        if trainer.state.fn == "fit" and _KEY in checkpoint:
            kept = checkpoint[_KEY]
            self.num_averaged, self._mean, self._own = kept["num_averaged"], kept["mean"], kept["own"]

    def _put_mean(self, module: LightningModule) -> None:
        if self.num_averaged and not self._own:
            self._own = {name: weight.clone() for name, weight in _trained(module).items()}
            _set(module, self._mean)

    def _put_back(self, module: LightningModule) -> None:
        _set(module, self._own)
        self._own = {}


def _trained(module: LightningModule) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in module.named_parameters() if weight.requires_grad}


def _set(module: LightningModule, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in _trained(module).items():
            if name in weights:
                weight.copy_(weights[name])
