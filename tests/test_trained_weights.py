"""What a checkpoint holds of a stage, and which checkpoints are refused."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lvad.errors import DataError
from lvad.modules.stage_base import Shardable
from lvad.trained_weights import check_loaded_checkpoint, keep_trained_weights


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
        check_loaded_checkpoint(self, checkpoint)


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
