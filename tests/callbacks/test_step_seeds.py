"""Random numbers by the number of the step."""

import random

import numpy as np
import torch
from lightning import LightningModule, Trainer, seed_everything

from lvad.callbacks.step_seeds import StepSeeds, step_seed


class Draws(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.drawn = torch.nn.Linear(1, 1), []

    def training_step(self, batch, batch_idx):
        self.drawn.append((random.random(), np.random.rand(), torch.rand(()).item()))
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        torch.rand(int(batch.sum()) + 1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(tmp_path, steps, seed=0, ckpt=None, **options):
    if seed is not None:
        seed_everything(seed, verbose=False)
    module = Draws()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, callbacks=[StepSeeds()], enable_checkpointing=False,
        default_root_dir=tmp_path, **quiet, **options,
    )  # fmt: skip
    data = torch.utils.data.DataLoader(torch.ones(4, 1))
    trainer.fit(module, data, data, ckpt_path=ckpt, weights_only=True if ckpt else None)
    return module.drawn, trainer


def test_a_run_that_goes_on_draws_what_it_would_have_drawn(tmp_path):
    whole, _ = fit(tmp_path, 8)
    first, trainer = fit(tmp_path, 4)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    rest, _ = fit(tmp_path, 8, ckpt=tmp_path / "half.ckpt")
    assert whole == first + rest
    assert len(set(whole)) == 8


def test_a_given_seed_wins_over_that_of_a_checkpoint(tmp_path):
    whole, _ = fit(tmp_path, 8, seed=99)
    _, trainer = fit(tmp_path, 4)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    assert fit(tmp_path, 8, seed=99, ckpt=tmp_path / "half.ckpt")[0] == whole[4:]


def test_without_a_given_seed_that_of_the_checkpoint_goes_on(tmp_path, monkeypatch):
    whole, _ = fit(tmp_path, 8)
    _, trainer = fit(tmp_path, 4)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert fit(tmp_path, 8, seed=None, ckpt=tmp_path / "half.ckpt")[0] == whole[4:]


def test_a_validation_changes_nothing(tmp_path):
    with_validation, _ = fit(tmp_path, 4, val_check_interval=2)
    without, _ = fit(tmp_path, 4, limit_val_batches=0)
    assert with_validation == without


def test_seeds_differ_by_run_step_and_rank():
    seeds = {step_seed(run, step, rank) for run in range(5) for step in range(50) for rank in range(4)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
