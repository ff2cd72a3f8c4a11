"""The plan that is said before the first step: every row by hand."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import nn

from lvad.callbacks.fit_plan import (
    FitPlan,
    label_rows,
    later_step_bytes,
    memory_rows,
    optimizer_bytes,
    parameter_rows,
    step_rows,
)
from lvad.callbacks.worst_batch import TrialStep
from lvad.errors import DataError
from lvad.types import Scene

TRIED = TrialStep(prompt_tokens=100, completion_tokens=40, saved_bytes=3_000_000, peak_bytes=None, time_s=0.5)


def two_parts():
    module = nn.Module()
    module.policy = nn.Linear(10, 100)  # 1,100
    module.policy.weight.requires_grad_(False)
    module.reward = nn.Linear(2, 2, bias=False).requires_grad_(False)
    module.empty = nn.ReLU()
    return module


def test_parameters_of_each_part():
    assert parameter_rows(two_parts()) == [
        ("parameters, policy", "1,100, of which 100 trained"),
        ("parameters, reward", "4, frozen"),
    ]


@pytest.mark.parametrize(
    ("make", "kept"),
    [
        (lambda p: torch.optim.AdamW(p, lr=0.1), 2),
        (lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True), 3),
        (lambda p: torch.optim.SGD(p, lr=0.1), 0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 1),
    ],
)
def test_what_the_optimizer_will_keep(make, kept):
    layer = nn.Linear(10, 30)
    optimizer = make(layer.parameters())
    assert optimizer_bytes(optimizer) == 4 * 330 * kept
    layer(torch.ones(10)).sum().backward()
    optimizer.step()
    states = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    assert sum(v.nbytes for v in states if v.dim()) == 4 * 330 * kept


def test_an_unknown_optimizer_is_said_to_be_unknown():
    class Other(torch.optim.SGD):
        __module__ = "elsewhere"

    optimizer = Other([nn.Parameter(torch.ones(2))], lr=0.1)
    assert optimizer_bytes(optimizer) is None
    assert optimizer_bytes(torch.optim.LBFGS([nn.Parameter(torch.ones(2))])) is None  # needs a closure
    ((_, text),) = memory_rows(nn.Linear(1, 1), [optimizer], None)
    assert text == "weights 0.0 MB, gradients 0.0 MB, optimizer not known"


def test_memory():
    module = nn.Linear(1000, 1000, bias=False)
    rows = dict(memory_rows(module, [torch.optim.AdamW(module.parameters())], TRIED._replace(peak_bytes=20_000_000)))
    assert rows["memory"] == (
        "weights 4.0 MB, gradients 4.0 MB, optimizer 8.0 MB, activations of the worst batch 3.0 MB"
    )
    assert rows["worst batch"] == "tried in 0.5 s, at most 20 MB allocated"
    assert memory_rows(module, [], None, " before")[0][1] == "weights 4.0 MB, gradients 4.0 MB, optimizer 0.0 MB before"


def test_a_later_step_has_states_and_accumulated_gradients_beside_it():
    module = nn.Linear(1000, 1000, bias=False)
    trainer: Any = SimpleNamespace(accumulate_grad_batches=1, optimizers=[torch.optim.AdamW(module.parameters())])
    assert later_step_bytes(trainer, module) == 8_000_000
    trainer.accumulate_grad_batches = 4
    assert later_step_bytes(trainer, module) == 12_000_000


def test_a_reference_that_is_a_second_model_weighs_too():
    module: Any = nn.Module()
    module.policy = nn.Linear(1000, 500, bias=False)
    object.__setattr__(module.policy, "kept_copy", nn.Linear(1000, 500, bias=False))
    assert memory_rows(module, [], None)[0][1].startswith("weights 4.0 MB, gradients 2.0 MB")


def test_tokens_of_a_step_count_devices_and_accumulated_batches():
    policy = SimpleNamespace(sampling=SimpleNamespace(max_new_tokens=5))
    rows = dict(step_rows(SimpleNamespace(policy=policy, num_completions=8), 4, 2, 3, TRIED))
    assert rows["one step"] == ("24 scenes (4 x 2 accumulated x 3 devices), 8 completions of at most 5 tokens each")
    assert rows["tokens of a step"] == "at most 840: 600 of prompts, 240 learnt from"
    assert list(dict(step_rows(SimpleNamespace(), 4, 1, 1, None))) == ["one step"]


class Words:
    """One token per word."""

    def targets(self, texts):
        return SimpleNamespace(completion_mask=torch.ones(sum(len(text.split()) for text in texts[0])))


def test_labels():
    no_reason = (0,) * 21
    scenes = [
        Scene("a", (), "train", (1, 0, 0, 0), no_reason, ("a red light",)),
        Scene("b", (), "train", None, None, ()),
        Scene("c", (), "train", (1, 1, 0, 0), no_reason, ("clear",)),
    ]
    module = SimpleNamespace(policy=Words(), target="action")
    # "Action: forward." and "Action: forward, stop."
    assert label_rows(module, scenes) == [("labels", "2 of 3 training scenes, 5 tokens")]
    module.target = "caption"
    assert label_rows(module, scenes) == [("labels", "2 of 3 training scenes, 4 tokens")]
    rehearsed = SimpleNamespace(rehearsal=SimpleNamespace(scenes=scenes))
    assert label_rows(SimpleNamespace(), []) == [("labels", "none, training scenes are streamed")]
    assert label_rows(rehearsed, [scenes[1]]) == [("labels", "0 of 1 training scenes; 3 rehearsed")]


def test_many_texts_are_estimated():
    scene = Scene("a", (), "train", None, None, ("a b", "c d e f") * 1100)
    module = SimpleNamespace(policy=Words(), target="caption")
    assert label_rows(module, [scene]) == [("labels", "1 of 1 training scenes, about 6,600 tokens")]


def test_a_run_under_deepspeed_is_refused():
    trainer = SimpleNamespace(strategy=DeepSpeedStrategy.__new__(DeepSpeedStrategy), datamodule=None)
    with pytest.raises(DataError, match=r"do not run under DeepSpeed.*take configs/strategy/ddp.yaml"):
        FitPlan().on_fit_start(trainer, two_parts())
