"""Two processes, or several small batches, are one large batch."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[1] / "two_ranks.py"


@pytest.fixture(scope="module")
def run(vlm_folder, clip_folder, drawn_root, tmp_path_factory):
    @functools.cache
    def start(stage, devices, batch_size, accumulate, strategy="ddp"):
        folder = tmp_path_factory.mktemp("ranks")
        models = [vlm_folder, clip_folder]
        args = [sys.executable, SCRIPT, folder, *models, drawn_root, stage, strategy, devices, batch_size, accumulate]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
        done = subprocess.run([*map(str, args)], capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return torch.load(folder / "gradients.pt"), json.loads((folder / "scores.json").read_text())

    return start


def check(found, expected):
    (gradients, scores), (expected_gradients, expected_scores) = found, expected
    assert len(gradients) == len(expected_gradients) == 2
    for step, wanted in zip(gradients, expected_gradients, strict=True):
        norm = torch.stack([grad.norm() for grad in wanted]).norm()
        off = torch.stack([(a - b).norm() for a, b in zip(step, wanted, strict=True)]).norm()
        assert norm > 1e-4
        assert off / norm < 1e-6
    for mean in (scores, expected_scores):
        mean.pop("val/caption_recall_at_1", None)  # which of the batch's captions is the scene's: of other batches
    assert scores == pytest.approx(expected_scores, rel=1e-5)


@pytest.mark.parametrize("stage", ["rloo", "sft", "clip"])
def test_two_ranks_are_one(run, stage):
    check(run(stage, devices=2, batch_size=4, accumulate=1), run(stage, devices=1, batch_size=8, accumulate=1))


@pytest.mark.parametrize("stage", ["a2c", "sft", "clip"])
def test_accumulated_batches_are_one(run, stage):
    check(run(stage, devices=1, batch_size=2, accumulate=4), run(stage, devices=1, batch_size=8, accumulate=1))


@pytest.mark.parametrize("stage", ["rloo", "sft"])
def test_shared_out_weights_are_the_same(run, stage):
    shared = run(stage, devices=2, batch_size=4, accumulate=1, strategy="fsdp")
    check(shared, run(stage, devices=1, batch_size=8, accumulate=1))
