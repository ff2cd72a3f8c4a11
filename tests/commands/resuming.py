"""A stage that learns little and remembers what it was given, for fits that are stopped and go on."""

import contextlib
import signal
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lvad.callbacks.step_seeds import StepSeeds
from lvad.commands.config_precedence import ConfigPrecedence
from lvad.commands.last_checkpoint import LastCheckpoint
from lvad.commands.signals import StopSignals
from lvad.data.loaders import ResumableLoader
from lvad.data.samplers import EpochSampler


class Remembers(LightningModule):
    """One weight, drawn noise in its gradient, a momentum, and the list of the scenes of each step."""

    def __init__(self, optimizer=None, schedule=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.optimizer, self.schedule = optimizer, schedule
        self.given, self.validated, self.rates = [], [], []

    def training_step(self, batch, batch_idx):
        self.given.append(batch.tolist())
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        loss = (self.weight * (batch.float().mean() + torch.randn(()))).sum() + self.weight**2
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.validated.append(self.trainer.global_step)
        self.log("val/weight", self.weight)

    def configure_optimizers(self):
        optimizer = self.optimizer(self.parameters()) if self.optimizer else torch.optim.Adam(self.parameters(), lr=0.1)
        if self.schedule is None:
            return optimizer
        return [optimizer], [{"interval": "step", **self.schedule(optimizer)}]


class At(Callback):
    """Sends signals to this process, after that many training or validation batches of this fit."""

    def __init__(self, stop, train=None, val=None, number=signal.SIGTERM):
        self.stop, self.train, self.val, self.number = stop, train, val, number

    def send(self):
        self.stop._handle(self.number, None)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if len(module.given) + 1 == self.train:
            self.send()

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        if len(module.validated) + 1 == self.val:
            self.send()


def fit(
    root, num_scenes=16, batch_size=4, seed=3, ckpt=None, train=None, val=None, module=None, order=None, callbacks=(),
    **options,
):  # fmt: skip
    """A fit, stopped by a signal or not; returns the module and the trainer."""
    seed_everything(0, verbose=False)
    module = module or Remembers()
    stop = StopSignals()
    sampler = EpochSampler(num_scenes, seed)
    loader = ResumableLoader(torch.arange(num_scenes), batch_size=batch_size, sampler=sampler, order_key=order)
    best = ModelCheckpoint(
        monitor="val/weight", filename="best", auto_insert_metric_name=False, enable_version_counter=False
    )
    defaults = {"max_epochs": 2, "log_every_n_steps": 1, "num_sanity_val_steps": 0}
    trainer = Trainer(
        accelerator="cpu", logger=False, default_root_dir=root, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[At(stop, train, val), *callbacks, best, StepSeeds(), ConfigPrecedence(), LastCheckpoint(stop)],
        **(defaults | options),
    )  # fmt: skip
    with contextlib.suppress(SystemExit):
        trainer.fit(module, loader, torch.utils.data.DataLoader(torch.ones(3)), ckpt_path=ckpt)
    return module, trainer


def last(root):
    return Path(root) / "checkpoints/last.ckpt"
