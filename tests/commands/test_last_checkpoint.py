"""A fit that was stopped at any moment goes on to the same bits; with another batch size no scene is lost."""

import itertools
import signal
from datetime import timedelta

import pytest
import torch
from resuming import Remembers, fit, last

from lvad.commands.last_checkpoint import LastCheckpoint
from lvad.errors import DataError


def bits(module, trainer):
    state = trainer.optimizers[0].state_dict()["state"][0]
    loops = trainer.fit_loop.epoch_loop
    numbers = (trainer.global_step, trainer.current_epoch, loops._batches_that_stepped, loops.total_batch_idx)
    return module.weight.item(), *(float(value) for value in state.values()), *numbers


# What stops it, and how the run validates: at each moment that differs for Lightning's loops.
EVERY_EPOCH = {}
TWICE = {"val_check_interval": 0.5}
SELDOM = {"check_val_every_n_epoch": 2, "max_epochs": 3}
WINDOWS = {"accumulate_grad_batches": 2, "val_check_interval": 3, "check_val_every_n_epoch": None}
SHORTENED = {"limit_train_batches": 3}
STOPS = [
    (EVERY_EPOCH, {"max_steps": 3}), (EVERY_EPOCH, {"train": 2}), (EVERY_EPOCH, {"train": 4}),
    (EVERY_EPOCH, {"val": 1}), (EVERY_EPOCH, {"val": 3}), (EVERY_EPOCH, {"train": 8}),
    (TWICE, {"train": 2}), (TWICE, {"val": 2}), (TWICE, {"val": 3}), (TWICE, {"max_steps": 6}),
    (SELDOM, {"train": 4}), (SELDOM, {"train": 9}), (WINDOWS, {"train": 1}), (WINDOWS, {"val": 1}),
    (WINDOWS, {"max_steps": 3}), (SHORTENED, {"train": 3}), (SHORTENED, {"train": 4}),
    ({"limit_val_batches": 0}, {"train": 5}),
]  # fmt: skip


@pytest.mark.parametrize(("options", "stop"), STOPS, ids=str)
def test_a_stopped_fit_goes_on_to_the_same_bits(options, stop, tmp_path):
    whole, end = fit(tmp_path / "whole", **options)
    begun, _ = fit(tmp_path / "stopped", **{**options, **stop})
    rest, again = fit(tmp_path / "stopped", ckpt=last(tmp_path / "stopped"), **options)
    assert begun.given + rest.given == whole.given
    assert bits(rest, again) == bits(whole, end)
    assert {*begun.validated, *rest.validated} == {*whole.validated}


def test_a_fit_that_is_stopped_at_every_step_ends_with_the_same_bits(tmp_path):
    whole, end = fit(tmp_path / "whole", **TWICE)
    given, ckpt = [], None
    for _ in range(9):
        rest, again = fit(tmp_path / "stopped", train=1, ckpt=ckpt, **TWICE)
        given, ckpt = given + rest.given, last(tmp_path / "stopped")
    assert given == whole.given
    assert bits(rest, again) == bits(whole, end)


def test_a_stop_by_time_goes_on_at_the_next_batch(tmp_path):
    begun, _ = fit(tmp_path, max_time=timedelta(seconds=0.001))
    assert len(begun.given) == 1
    rest, _ = fit(tmp_path, ckpt=last(tmp_path))
    assert begun.given + rest.given == fit(tmp_path / "whole")[0].given


def test_without_validation_short_epochs_are_not_written_one_by_one(tmp_path, monkeypatch):
    """12 epochs of 4 batches: at the ends of epochs 5 and 10, which are 20 batches apart, and of the fit."""
    steps = []
    write = LastCheckpoint._write

    def note(callback, trainer):
        steps.append(trainer.global_step)
        write(callback, trainer)

    monkeypatch.setattr(LastCheckpoint, "_write", note)
    fit(tmp_path, limit_val_batches=0, max_epochs=12)
    assert steps == [20, 40, 48]


def test_a_second_fit_of_a_finished_one_trains_nothing(tmp_path):
    fit(tmp_path)
    rest, trainer = fit(tmp_path, ckpt=last(tmp_path))
    assert (rest.given, trainer.global_step) == ([], 8)


@pytest.mark.parametrize(("steps", "before", "now"), [(4, 4, 2), (2, 4, 8), (1, 4, 16), (5, 3, 4)])
def test_with_another_batch_size_every_scene_comes_once(steps, before, now, tmp_path):
    begun, _ = fit(tmp_path, num_scenes=24, batch_size=before, max_steps=steps)
    rest, trainer = fit(tmp_path, num_scenes=24, batch_size=now, ckpt=last(tmp_path))
    scenes = [*itertools.chain(*begun.given, *rest.given)]
    assert sorted(scenes[:24]) == sorted(scenes[24:]) == list(range(24))
    assert trainer.current_epoch == 2
    assert {*rest.validated} == {trainer.global_step - -(-24 // now), trainer.global_step}
    whole, _ = fit(tmp_path / "whole", num_scenes=24, batch_size=1)
    assert scenes == [*itertools.chain(*whole.given)]  # in the same order


def test_within_an_epoch_another_order_is_refused_by_name(tmp_path):
    order = {"data.seed": 3, "the number of training scenes": 16}
    fit(tmp_path, order=order, max_steps=3)
    with pytest.raises(DataError, match=r"of which 12 scenes were seen.*data\.seed was 3 and is 4.*start anew"):
        fit(tmp_path, order=order | {"data.seed": 4}, ckpt=last(tmp_path))


def test_behind_an_epoch_another_order_is_none_of_its_business(tmp_path):
    fit(tmp_path, order={"data.seed": 3}, max_epochs=1)
    rest, _ = fit(tmp_path, seed=4, order={"data.seed": 4}, ckpt=last(tmp_path))
    assert sorted(itertools.chain(*rest.given)) == list(range(16))


def test_a_checkpoint_that_does_not_say_where_it_stopped_is_refused(tmp_path):
    fit(tmp_path, max_epochs=1)
    content = torch.load(last(tmp_path), weights_only=True)
    torch.save({key: value for key, value in content.items() if key != "is_validation_due"}, last(tmp_path))
    with pytest.raises(DataError, match="does not say where its fit stopped, as this version of lvad does; start anew"):
        fit(tmp_path, ckpt=last(tmp_path))


def test_the_second_ctrl_c_ends_at_once(tmp_path):
    class Twice(Remembers):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            stop = self.trainer.callbacks[-1].stop
            if len(self.given) == 3:
                stop._handle(signal.SIGINT, None)
                stop._handle(signal.SIGTERM, None)  # the pipeline's, say
                assert len(self.given) == 3
                stop._handle(signal.SIGINT, None)
            return loss

    module, trainer = fit(tmp_path, module=Twice(), val_check_interval=0.5)
    assert (len(module.given), trainer.global_step) == (3, 2)
    assert torch.load(last(tmp_path), weights_only=True)["global_step"] == 2  # the last validation's
