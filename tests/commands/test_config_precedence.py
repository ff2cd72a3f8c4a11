"""On resuming, file and command line win over the optimizer and the schedule of a checkpoint."""

import pytest
from lightning.pytorch.callbacks import EarlyStopping
from resuming import Remembers, fit, last
from torch.optim import SGD, Adam, lr_scheduler

from lvad.callbacks.kl_rate import KLRate
from lvad.commands.config_precedence import changed_settings
from lvad.errors import DataError


def adam(**options):
    return lambda parameters: Adam(parameters, **options)


def linear(end, over=8):
    return lambda optimizer: {"scheduler": lr_scheduler.LinearLR(optimizer, 1.0, end, over)}


def rates(root, before, now, **options):
    """The rates of the last 5 of 8 steps, with the optimizer of the end, and what was logged."""
    fit(root, module=Remembers(*before), max_steps=3, **options)
    module, trainer = fit(root, module=Remembers(*now), ckpt=last(root), **options)
    return module.rates, trainer.optimizers[0]


def test_optimizer_values_are_the_configured_ones(tmp_path):
    found, optimizer = rates(tmp_path, [adam(lr=0.1)], [adam(lr=0.02, weight_decay=0.5, betas=(0.5, 0.9))])
    assert found == [0.02] * 5
    (group,) = optimizer.param_groups
    assert (group["weight_decay"], group["betas"]) == (0.5, (0.5, 0.9))
    assert optimizer.state_dict()["state"][0]["step"] == 8  # its state goes on


@pytest.mark.parametrize(
    "now",
    [
        [adam(lr=0.1), linear(0.2)],  # the same
        [adam(lr=0.05), linear(0.2)],
        [adam(lr=0.1), linear(0.5)],
        [adam(lr=0.1), linear(0.5, over=20)],
        [adam(lr=0.1), lambda o: {"scheduler": lr_scheduler.StepLR(o, 3, 0.5)}],
        [adam(lr=0.1), lambda o: {"scheduler": lr_scheduler.OneCycleLR(o, 0.1, 9)}],
    ],
)
def test_a_schedule_is_that_of_a_run_which_had_it_from_its_start(now, tmp_path):
    found, _ = rates(tmp_path / "resumed", [adam(lr=0.1), linear(0.2)], now)
    whole, _ = fit(tmp_path / "whole", module=Remembers(*now))
    assert found == whole.rates[3:]


def test_a_schedule_can_be_left_out_or_begun(tmp_path):
    assert rates(tmp_path / "a", [adam(lr=0.1), linear(0.2)], [adam(lr=0.1)])[0] == [0.1] * 5
    found, _ = rates(tmp_path / "b", [adam(lr=0.1)], [adam(lr=0.1), linear(0.2)])
    assert found == pytest.approx([0.1 - 0.01 * step for step in range(3, 8)])


def test_a_plateau_keeps_what_it_has_found(tmp_path):
    def plateau(patience):
        # The score is no better than at the first of its validations, so a patience of 0 halves at each later one.
        make = lambda o: lr_scheduler.ReduceLROnPlateau(o, "max", 0.5, patience, 9.0, "abs")  # noqa: E731
        return lambda o: {"scheduler": make(o), "interval": "epoch", "monitor": "val/weight", "strict": False}

    before, now = [adam(lr=0.1), plateau(0)], [adam(lr=0.02), plateau(5)]
    fit(tmp_path, module=Remembers(*before))
    module, trainer = fit(tmp_path, module=Remembers(*now), ckpt=last(tmp_path), max_epochs=3)
    assert module.rates == [0.01] * 4  # halved once, of the new rate
    assert trainer.lr_scheduler_configs[0].scheduler.patience == 5


def test_a_schedule_that_is_too_short_is_refused(tmp_path):
    short = [adam(lr=0.1), lambda o: {"scheduler": lr_scheduler.OneCycleLR(o, 0.1, 2)}]
    with pytest.raises(DataError, match="the schedule does not reach the run's 3 steps"):
        rates(tmp_path, [adam(lr=0.1), linear(0.2)], short)


def test_another_optimizer_is_refused(tmp_path):
    with pytest.raises(DataError, match="the optimizer was Adam and is SGD, which cannot go on"):
        rates(tmp_path, [adam(lr=0.1)], [lambda parameters: SGD(parameters, 0.1)])


class MeasuresKL(Remembers):
    kl = 1.0

    def training_step(self, batch, batch_idx):
        self.log("train/kl", 1e3)
        return super().training_step(batch, batch_idx)


def test_a_steered_rate_keeps_its_factor(tmp_path):
    def steered():
        return [KLRate(target=1.0, window=1, change=2.0, min_factor=0.25)]

    fit(tmp_path, module=MeasuresKL(adam(lr=0.1)), max_steps=3, callbacks=steered())
    module, _ = fit(tmp_path, module=MeasuresKL(adam(lr=0.4)), ckpt=last(tmp_path), callbacks=steered())
    assert module.rates == [0.1] * 5


def test_patience_is_the_configured_one(tmp_path):
    def stopping(patience):
        return EarlyStopping("val/weight", patience=patience, mode="max")

    fit(tmp_path, max_epochs=1, callbacks=[stopping(7)])
    callback = stopping(9)
    fit(tmp_path, ckpt=last(tmp_path), callbacks=[callback])
    assert callback.patience == 9


def test_what_is_another_value_is_said():
    before = {"groups": [{"lr": 0.1, "betas": (0.9, 0.99)}], "schedules": [{"kind": "LinearLR"}]}
    now = {"groups": [{"lr": 0.2, "betas": (0.9, 0.99)}], "schedules": []}
    assert changed_settings(before, now) == [
        "groups[0].lr was 0.1 and is 0.2", "schedules was [{'kind': 'LinearLR'}] and is []",
    ]  # fmt: skip
    assert changed_settings(now, now) == []
