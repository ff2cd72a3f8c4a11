"""The learning rate steered by the KL: the factor by hand, and scripted runs, whole and resumed."""

import json
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lvad.callbacks.kl_rate import KLRate, next_factor
from lvad.errors import DataError

KLS = [0.0, 0.2, 3.0, 4.0, 1.0, 1.2, 9.0, 9.0]  # nats; eight batches in two epochs


class Scripted(LightningModule):
    """Logs the scripted KL of its step and keeps the rates of each update."""

    kl: Any

    def __init__(self, kls=KLS, schedule=False):
        super().__init__()
        self.layer, self.value = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        self.kls, self.schedule = kls, schedule
        self.rates, self.factors = [], []

    def training_step(self, batch, batch_idx):
        if self.kls:
            self.log("train/kl", self.kls[self.trainer.fit_loop.epoch_loop.total_batch_idx])
        self.rates.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])
        return self.layer(batch).mean() + self.value(batch).mean()

    def on_train_batch_end(self, *_):
        self.factors.append(float(self.trainer.callback_metrics["lr-factor"]))

    def configure_optimizers(self):
        bias = {"params": [self.layer.bias], "lr": 0.2}
        critic = {"params": self.value.parameters(), "lr": 0.7, "name": "critic"}
        optimizer = torch.optim.AdamW([{"params": [self.layer.weight]}, bias, critic], lr=0.1)
        return ([optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer)]) if self.schedule else optimizer


def fit(root, module, ckpt_path=None, accumulate=1, **config):
    callback = KLRate(**{"target": 1.0, "window": 2, "change": 2.0, "min_factor": 0.4, "max_factor": 1.8, **config})
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[callback, ModelCheckpoint(root, filename="{step}", save_top_k=-1, every_n_train_steps=1)],
        accumulate_grad_batches=accumulate,
    )  # fmt: skip
    batches: Any = torch.ones(4, 1)
    trainer.fit(module, DataLoader(batches), ckpt_path=ckpt_path)
    return callback


@pytest.mark.parametrize(
    ("kl", "factor"),
    [
        (2.1, 0.5),  # above twice the target of 1: 1 / 2
        (2.0, 1.0),
        (0.5, 1.0),
        (0.4, 2.0),  # below half: 1 * 2
        (-0.1, 2.0),  # an estimate about no KL at all
        (float("nan"), 1.0),
    ],
)
def test_the_factor_changes_outside_half_and_twice_the_target(kl, factor):
    assert next_factor(1.0, kl, 1.0, 2.0, 0.1, 10.0) == factor


def test_the_factor_stays_within_its_limits():
    assert next_factor(0.15, 5.0, 1.0, 2.0, 0.1, 3.0) == 0.1
    assert next_factor(2.0, 0.0, 1.0, 2.0, 0.1, 3.0) == 3.0


def test_rates_follow_the_mean_of_each_window_and_the_critic_keeps_its_own(tmp_path):
    module = Scripted()
    callback = fit(tmp_path, module)
    # means 0.1: 1 * 2, at most 1.8; 3.5: 1.8 / 2 = 0.9; 1.1: as it is; 9: 0.9 / 2 = 0.45, used by no batch
    factors = [1.0, 1.0, 1.8, 1.8, 0.9, 0.9, 0.9, 0.9]
    assert module.rates == [pytest.approx([0.1 * f, 0.2 * f, 0.7]) for f in factors]
    assert module.factors == pytest.approx([*factors[1:], 0.45])
    assert callback.factor == pytest.approx(0.45)


def test_a_run_that_stays_near_its_target_keeps_its_rates(tmp_path):
    module = Scripted([1.0] * 8)
    fit(tmp_path, module)
    assert module.rates == [[0.1, 0.2, 0.7]] * 8


def test_a_window_counts_training_batches_where_gradients_are_accumulated(tmp_path):
    module = Scripted()
    fit(tmp_path, module, accumulate=2)
    assert module.factors == pytest.approx([1.0, 1.8, 1.8, 0.9, 0.9, 0.9, 0.9, 0.45])


@pytest.mark.parametrize("step", [3, 4, 5])  # within a window, at the end of an epoch, in the next
def test_a_resumed_run_goes_on_with_the_same_rates(tmp_path, step):
    whole, resumed = Scripted(), Scripted()
    state = fit(tmp_path, whole).state_dict()
    assert fit(tmp_path / "resumed", resumed, ckpt_path=tmp_path / f"step={step}.ckpt").state_dict() == state
    assert resumed.rates == whole.rates[step:]
    assert resumed.factors == whole.factors[step:]
    assert json.loads(json.dumps(state)) == state


def test_a_schedule_beside_it_is_refused(tmp_path):
    with pytest.raises(DataError, match="lr_scheduler: leave one of them out"):
        fit(tmp_path, Scripted(schedule=True))


def test_a_run_without_a_kl_is_refused(tmp_path):
    module = Scripted(kls=[])
    with pytest.raises(DataError, match="train/kl, which this run does not log"):
        fit(tmp_path, module)
    assert len(module.rates) == 1  # found out at the first batch
    module.kl = None  # as the policy says it
    with pytest.raises(DataError, match="train/kl, which this run does not log"):
        fit(tmp_path, module)
    assert len(module.rates) == 1


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("target", 0.0, "> 0"),
        ("target", float("inf"), "> 0"),
        ("window", 0, ">= 1"),
        ("change", 1.0, "> 1"),
        ("min_factor", 0.0, r"in \(0, 1\]"),
        ("min_factor", 1.1, r"in \(0, 1\]"),
        ("max_factor", 0.9, ">= 1"),
    ],
)
def test_values_that_make_no_sense_are_refused(name, value, allowed):
    with pytest.raises(ValueError, match=f"{name} must be {allowed}.*got"):
        KLRate(**{"target": 1.0, name: value})
