"""The mean of the last weights: what it is, where it stands in for the weights, and what a resumed fit makes of it."""

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lvad.callbacks.weight_average import AverageWeights
from lvad.errors import DataError
from lvad.ops import running_mean
from lvad.trainer_queries import fit_progress


def test_a_running_mean_is_the_mean():
    """2, then (2 + 4) / 2 = 3, then (2 + 4 + 9) / 3 = 5."""
    mean = torch.tensor([0.0])
    found = []
    for count, value in enumerate((2.0, 4.0, 9.0), start=1):
        mean = running_mean(mean, torch.tensor([value]), count)
        found.append(mean.item())
    assert found == [2.0, 3.0, 5.0]
    with pytest.raises(ValueError, match="at least 1, got 0"):
        running_mean(mean, mean, 0)


class Falls(LightningModule):
    """One weight that falls by 1 with every optimizer step, and a frozen one; notes what is validated."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.0]))
        self.frozen = torch.nn.Parameter(torch.tensor([7.0]), requires_grad=False)
        self.validated, self.trained = [], []

    def training_step(self, batch, batch_idx):
        self.trained.append(self.weight.item())
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.validated.append(self.weight.item())
        self.log("val/weight", self.weight.sum())

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=1.0)


def loader(count):
    return DataLoader(torch.zeros(count, 1))


class Saves(Callback):
    """A checkpoint at the end of the third epoch."""

    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            trainer.save_checkpoint(self.path)


def fit(tmp_path, *callbacks, ckpt_path=None, **options):
    module = Falls()
    saved = ModelCheckpoint(tmp_path, "best", monitor="val/weight", mode="min", enable_version_counter=False)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=[*callbacks, saved], default_root_dir=tmp_path, **options,
    )  # fmt: skip
    trainer.fit(module, loader(4), loader(1), ckpt_path=ckpt_path)
    return module, trainer


def test_the_last_share_of_the_steps_is_averaged(tmp_path):
    """8 steps leave -1 .. -8; the last quarter is -7 and -8, the last half -5 .. -8."""
    for last, expected in ((0.25, -7.5), (0.5, -6.5), (1.0, -4.5)):
        module, _ = fit(tmp_path, AverageWeights(last), max_epochs=2)
        assert module.weight.item() == expected
        assert module.frozen.item() == 7.0


def test_only_optimizer_steps_count(tmp_path):
    """8 batches in steps of two: -1 .. -4, of which the last half is -3 and -4."""
    module, _ = fit(tmp_path, AverageWeights(0.5), max_epochs=2, accumulate_grad_batches=2)
    assert module.weight.item() == -3.5


def test_the_mean_is_validated_and_kept_and_training_goes_on_with_the_weights(tmp_path):
    """Validated behind step 4, where nothing is averaged yet, and behind step 8: the mean of -5 .. -8."""
    module, _ = fit(tmp_path, AverageWeights(0.5), max_epochs=2)
    assert module.validated == [-4.0, -6.5]
    assert module.trained == [-float(step) for step in range(8)]
    checkpoint = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert checkpoint["state_dict"]["weight"].item() == -6.5
    assert checkpoint["weight_average"]["own"]["weight"].item() == -8.0


def test_a_resumed_fit_ends_as_an_unbroken_one(tmp_path):
    whole, _ = fit(tmp_path, AverageWeights(0.75), max_epochs=4)
    assert whole.weight.item() == -10.5  # -5 .. -16
    fit(tmp_path, AverageWeights(0.75), Saves(tmp_path / "broken.ckpt"), max_epochs=4)
    assert torch.load(tmp_path / "broken.ckpt", weights_only=True)["state_dict"]["weight"].item() == -8.5  # -5 .. -12
    resumed, _ = fit(tmp_path, AverageWeights(0.75), ckpt_path=tmp_path / "broken.ckpt", max_epochs=4)
    assert resumed.trained == [-12.0, -13.0, -14.0, -15.0]
    assert resumed.weight.item() == -10.5


def test_what_has_no_end_has_no_last_part(tmp_path):
    trainer = Trainer(accelerator="cpu", max_epochs=-1, logger=False, enable_checkpointing=False)
    trainer.strategy._lightning_module = Falls()
    trainer.fit_loop._data_source.instance = loader(4)
    with pytest.raises(DataError, match="needs an end"):
        fit_progress(trainer)


def test_a_share_is_a_share():
    for last in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"last must be in \(0, 1\]"):
            AverageWeights(last)
