"""What the stages share: their optimizers, their checkpoints, and steps of unequal batches, worked out by hand."""

from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lvad.errors import DataError
from lvad.modules.common import MeanOverScenes, Shardable, check_checkpoint_of, keep_trained_weights, make_optimizer


def updated(optimizer):
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    made = make_optimizer(layer, optimizer, None)
    for _ in range(2):
        layer(torch.ones(1, 3)).sum().backward()
        made.step()
    return layer.weight.detach(), made


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_weights_of_a_device_with_the_kernel_are_updated_by_it(optimizer, monkeypatch):
    def make(groups):
        return optimizer(groups, lr=0.1)

    plain, _ = updated(make)
    monkeypatch.setattr("lvad.modules.common._has_fused_kernel", lambda parameter: True)
    fused, made = updated(make)
    assert made.param_groups[0]["fused"] is True
    torch.testing.assert_close(fused, plain)
    # With it Lightning would refuse to clip the gradients of 16-mixed.
    assert not getattr(made, "_step_supports_amp_scaling", False)


@pytest.mark.parametrize("option", [{"fused": False}, {"foreach": True}], ids=str)
def test_a_chosen_kernel_stays(option, monkeypatch):
    monkeypatch.setattr("lvad.modules.common._has_fused_kernel", lambda parameter: True)
    _, made = updated(lambda groups: torch.optim.AdamW(groups, **option))
    assert made.param_groups[0]["fused"] is option.get("fused")


def test_on_a_cpu_the_update_is_that_of_before():
    _, made = updated(torch.optim.AdamW)
    assert made.param_groups[0]["fused"] is None


class Stage(Shardable):
    """Trains an adapter in front of a frozen layer; remembers a number."""

    def __init__(self, rank=2, name="adapter", trains_base=False):
        super().__init__()
        self.base = nn.Linear(3, 3).requires_grad_(trains_base)
        setattr(self, name, nn.Linear(3, rank, bias=False))
        self.register_buffer("share", torch.zeros(()))
        self.register_buffer("scratch", torch.zeros(4), persistent=False)
        self.strict_loading = False

    def on_save_checkpoint(self, checkpoint):
        keep_trained_weights(checkpoint, self)

    def on_load_checkpoint(self, checkpoint):
        check_checkpoint_of(self, checkpoint)


def checkpoint_of(stage):
    checkpoint = {"state_dict": stage.state_dict()}
    stage.on_save_checkpoint(checkpoint)
    return checkpoint


def test_the_checkpoint_of_the_same_configuration_is_taken():
    checkpoint = checkpoint_of(Stage())
    assert checkpoint["state_dict"].keys() == {"adapter.weight", "share"}
    Stage().on_load_checkpoint(checkpoint)
    Stage().on_load_checkpoint({})  # of a strategy that has loaded the weights itself


@pytest.mark.parametrize(
    ("written_by", "message"),
    [
        (
            Stage(rank=3),
            r"1 weights of another shape: adapter.weight is \[3, 3\], this configuration makes it \[2, 3\]",
        ),
        (Stage(name="other"), r"lacks 1 of the 2 weights that this configuration trains: \['adapter.weight'\]"),
        (Stage(trains_base=True), r"holds 2 weights that this configuration does not train: \['base.bias', 'base.w"),
    ],
)
def test_the_checkpoint_of_another_is_refused_by_name(written_by, message):
    with pytest.raises(
        DataError, match=f"{message}.*; take the checkpoint and the configuration of one and the same run"
    ):
        Stage().on_load_checkpoint(checkpoint_of(written_by))


def test_where_the_strategy_loaded_the_weights_the_file_is_looked_into(tmp_path):
    stage = Stage()
    stage._trainer = SimpleNamespace(ckpt_path=tmp_path / "whole.ckpt")
    torch.save(checkpoint_of(Stage()), tmp_path / "whole.ckpt")
    stage.on_load_checkpoint({"global_step": 1})
    torch.save(checkpoint_of(Stage(name="other")), tmp_path / "whole.ckpt")
    with pytest.raises(DataError, match=r"whole.ckpt: lacks 1 of the 2 weights"):
        stage.on_load_checkpoint({"global_step": 1})


VALUES = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
"""The gradient of each scene; no two subsets in question have one mean."""


class Linear(MeanOverScenes):
    """Loss w * mean(batch), so that a step's gradient is the mean over its scenes."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.norms = [], []

    def training_step(self, batch, batch_idx):
        return self.for_backward(self.weight * batch.mean(), len(batch))

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
