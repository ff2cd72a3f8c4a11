"""The method on one page takes the gradient of the engine, for the same completions and rewards."""

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from float64 import lift_roundings
from PIL import Image

from lvad.modules import RLOOPolicy
from lvad.objectives import KL
from lvad.policy import HFPolicy, Sampling
from lvad.types import Scores

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "minimal_rloo.py"
MODEL = SCRIPT.parents[1] / "checkpoints" / "vlm"
BETA, NUM_COMPLETIONS = 0.05, 4


@pytest.fixture(scope="module")
def minimal():
    spec: Any = importlib.util.spec_from_file_location("minimal_rloo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Given(torch.nn.Module):
    """A reward that is drawn beforehand, and keeps what it was asked about."""

    def __init__(self, rewards):
        super().__init__()
        self.rewards = rewards
        self.rollouts: Any = None  # until it was asked

    def score(self, batch, rollouts):
        self.rollouts = rollouts
        return Scores(self.rewards, {"given": self.rewards})


def engine_step(policy, batch, rewards):
    """The completions that ``RLOOPolicy`` drew in a step and the gradient that it took."""
    reward = Given(rewards)
    module = RLOOPolicy(policy, reward, num_completions=NUM_COMPLETIONS, kl=KL(BETA), audit="off")
    moved(policy.parameters())
    module.log_dict = lambda values, **_: None
    module.training_step(batch, 0)["loss"].backward()
    return reward.rollouts, {name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None}


def minimal_step(minimal, policy, reference, processor, scenes, rollouts, rewards):
    """The gradient of the page for given completions and rewards."""
    banned = minimal.banned_tokens(policy, processor)
    for frames, tokens, mask, row in zip(scenes, rollouts.tokens, rollouts.completion_mask, rewards, strict=True):
        prompt = minimal.prompt_of(processor, frames)
        logps = minimal.completion_logps(policy, prompt, tokens, mask, banned)
        with torch.no_grad():
            ref_logps = minimal.completion_logps(reference, prompt, tokens, mask, banned)
        (minimal.rloo_loss(logps, ref_logps, row, BETA) / len(scenes)).backward()
    return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


def pixel_rounding(minimal, engine, processor, batch, scenes):
    """How far the page's pixel values are from the engine's: 0 but for older versions of transformers."""
    tiling = engine.prompt_ids.frame_encoder.tiling
    ours = [tiling.pixel_values(tiling.tiles(frames).flatten(0, 1)) for frames in batch.frames]
    theirs = [minimal.prompt_of(processor, scene)["pixel_values"][0] for scene in scenes]
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def moved(parameters):
    """Away from the reference, so that the KL is not zero."""
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(1.02)


def test_the_page_takes_the_gradient_of_the_engine(minimal, make_batch, monkeypatch):
    lift_roundings(monkeypatch)
    batch = make_batch(2, 1)
    scenes = [[Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames] for frames in batch.frames]
    rewards = torch.randn(2, NUM_COMPLETIONS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    engine = HFPolicy("embedded/vlm", Sampling(max_new_tokens=24), lora=None, freeze_vision=True, dtype="float64")
    rollouts, wanted = engine_step(engine, batch, rewards)
    lengths = rollouts.completion_mask.sum(-1)
    assert lengths.unique().numel() > 1  # some completions end early, and are padded
    assert not rollouts.is_truncated.all()

    processor = minimal.AutoProcessor.from_pretrained(MODEL)
    policy = minimal.AutoModelForImageTextToText.from_pretrained(MODEL, dtype=torch.float64).eval()
    minimal.freeze_vision(policy)
    reference = copy.deepcopy(policy).requires_grad_(False)
    moved(policy.parameters())
    found = minimal_step(minimal, policy, reference, processor, scenes, rollouts, rewards)
    assert set(found) == set(wanted)
    rounding = pixel_rounding(minimal, engine, processor, batch, scenes)
    assert rounding < 1e-7  # half a unit of float32 in the last place of 1
    for name, gradient in wanted.items():
        assert 0 < gradient.norm()
        assert (found[name] - gradient).norm() <= (1e-8 + 10 * rounding) * gradient.norm(), name


def test_completions_end_with_their_end_and_hold_nothing_banned(minimal):
    torch.manual_seed(0)
    processor = minimal.AutoProcessor.from_pretrained(MODEL)
    policy = minimal.AutoModelForImageTextToText.from_pretrained(MODEL, dtype=torch.float32).eval()
    banned = minimal.banned_tokens(policy, processor)
    prompt = minimal.prompt_of(processor, [Image.new("RGB", (128, 128), "grey")])
    tokens, mask = minimal.sample(policy, prompt, 6, banned)
    end = processor.tokenizer.eos_token_id
    assert end not in banned
    for row, is_token in zip(tokens.tolist(), mask.tolist(), strict=True):
        length = sum(is_token)
        assert is_token == [True] * length + [False] * (len(row) - length)
        assert not set(row[:length]) & set(banned)
        assert (row[length - 1] == end) == (row.count(end) > 0)
        assert end not in row[: length - 1]


def test_advantages_by_hand(minimal):
    # 6 - (0 + 3) / 2, 0 - (6 + 3) / 2, 3 - (6 + 0) / 2
    assert minimal.leave_one_out(torch.tensor([6.0, 0.0, 3.0])).tolist() == [4.5, -4.5, 0.0]


@pytest.mark.slow
def test_it_runs_as_a_script():
    command = [sys.executable, str(SCRIPT), "--steps", "2", "--num_completions", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["step", "0"], ["step", "1"]]
