"""Optimizer steps of unequal batches, worked out by hand."""

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader, IterableDataset

from lvad.modules.stage_base import MeanOverScenes

VALUES = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
"""The gradient of each scene; no two subsets in question have one mean."""


class Linear(MeanOverScenes):
    """Loss w * mean(batch), so that a step's gradient is the mean over its scenes."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.norms = [], []

    def training_step(self, batch, batch_idx):
        return self.scaled_loss(self.weight * batch.mean(), len(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def on_before_optimizer_step(self, optimizer):
        super().on_before_optimizer_step(optimizer)
        self.seen.append(self.weight.grad.item())


class Stream(IterableDataset):
    """Nobody knows how long it is."""

    def __iter__(self):
        return iter(VALUES)


def fit(module, values=VALUES, batch_size=2, ckpt_path=None, **options):
    options = {"max_epochs": 1, "enable_checkpointing": False} | options
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, **options
    )  # fmt: skip
    trainer.fit(module, DataLoader(values, batch_size), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("values", [VALUES, Stream()])
def test_the_last_step_is_the_mean_over_its_scenes_also_of_a_stream(values, tmp_path):
    module = Linear()
    fit(module, values, accumulate_grad_batches=3, default_root_dir=tmp_path)
    assert module.seen == pytest.approx([3.5, 7.0])  # (1 + 2 + 3 + 4 + 5 + 6) / 6, and 7 alone


def test_batches_of_unequal_size_count_by_their_scenes(tmp_path):
    module = Linear()
    fit(module, batch_size=3, accumulate_grad_batches=4, default_root_dir=tmp_path)
    assert module.seen == pytest.approx([4.0])  # 28 / 7; the batches' means are 2, 5 and 7


def test_steps_of_equal_batches_are_left_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "mul_", None)
    module = Linear()
    fit(module, VALUES[:6], accumulate_grad_batches=3, default_root_dir=tmp_path)
    assert module.seen == [3.5]


def test_an_epoch_that_is_cut_short_ends_with_the_mean_over_its_scenes(tmp_path):
    module = Linear()
    fit(module, batch_size=1, accumulate_grad_batches=4, limit_train_batches=6, default_root_dir=tmp_path)
    assert module.seen == pytest.approx([2.5, 5.5])  # (1 + 2 + 3 + 4) / 4, (5 + 6) / 2


def test_a_run_that_goes_on_within_a_step_takes_the_mean_over_what_is_left_of_it(tmp_path):
    class Stops(Linear):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            if batch_idx == 1:
                self.trainer.save_checkpoint(tmp_path / "within.ckpt")

    fit(Stops(), batch_size=1, accumulate_grad_batches=4, default_root_dir=tmp_path)
    module = Linear()
    fit(module, batch_size=1, accumulate_grad_batches=4, default_root_dir=tmp_path, ckpt_path=tmp_path / "within.ckpt")
    # A plain loader begins again at 1 with the third batch: (1 + 2) / 2, then the rest of the epoch, 3 + 4 + 5.
    assert module.seen[0] == pytest.approx(1.5)


def test_clipping_sees_the_mean(tmp_path):
    module = Linear()
    fit(module, VALUES[:3], 2, accumulate_grad_batches=2, gradient_clip_val=1.0, default_root_dir=tmp_path)
    assert module.seen == pytest.approx([2.0])  # of 1, 2 and 3; before it is clipped
    assert module.weight.item() == pytest.approx(-1.0)
