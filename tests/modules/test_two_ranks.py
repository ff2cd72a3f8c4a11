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
def launch(vlm_folder, clip_folder, drawn_root):
    def start(folder, *args):
        args = [sys.executable, SCRIPT, folder, vlm_folder, clip_folder, drawn_root, *args]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
        return subprocess.run([*map(str, args)], capture_output=True, text=True, timeout=300, env=environment)

    return start


@pytest.fixture(scope="module")
def run(launch, tmp_path_factory):
    @functools.cache
    def start(stage, devices, batch_size, accumulate, strategy="ddp", num_train=16):
        folder = tmp_path_factory.mktemp("ranks")
        done = launch(folder, stage, strategy, devices, batch_size, accumulate, num_train)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "sync_dist" not in done.stderr  # Lightning warns of values that may be of one rank alone
        return torch.load(folder / "gradients.pt"), json.loads((folder / "scores.json").read_text())

    return start


def check(found, expected):
    (gradients, scores), (expected_gradients, expected_scores) = found, expected
    assert len(gradients) == len(expected_gradients) >= 2
    for step, wanted in zip(gradients, expected_gradients, strict=True):
        norm = torch.stack([grad.norm() for grad in wanted]).norm()
        off = torch.stack([(a - b).norm() for a, b in zip(step, wanted, strict=True)]).norm()
        assert norm > 1e-4
        assert off / norm < 1e-6
    for mean in (scores, expected_scores):
        mean.pop("val/caption_recall_at_1", None)  # which of the batch's captions is the scene's: of other batches
    assert scores
    assert scores == pytest.approx(expected_scores, rel=1e-5)


# Two steps of 8 scenes, of which the epoch has too few: the second step is smaller, and so is its last batch.
FEWER, FEWEST = 14, 11


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["rloo", "a2c2", "sft", "clip"])
def test_two_ranks_are_one(run, stage):
    whole = run(stage, devices=1, batch_size=8, accumulate=1, num_train=FEWER)
    check(run(stage, devices=2, batch_size=4, accumulate=1, num_train=FEWER), whole)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["a2c", "sft", "clip"])
def test_accumulated_batches_are_one(run, stage):
    """The last step has 3 scenes, in batches of 2 and 1 where 4 batches of 2 are accumulated."""
    whole = run(stage, devices=1, batch_size=8, accumulate=1, num_train=FEWEST)
    check(run(stage, devices=1, batch_size=2, accumulate=4, num_train=FEWEST), whole)


@pytest.mark.slow
def test_accumulated_batches_of_two_ranks_are_one(run):
    whole = run("sft", devices=1, batch_size=8, accumulate=1, num_train=FEWER)
    check(run("sft", devices=2, batch_size=2, accumulate=2, num_train=FEWER), whole)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["rloo", "sft"])
def test_shared_out_weights_are_the_same(run, stage):
    whole = run(stage, devices=1, batch_size=8, accumulate=1, num_train=FEWER)
    check(run(stage, devices=2, batch_size=4, accumulate=1, strategy="fsdp", num_train=FEWER), whole)


@pytest.mark.slow
def test_a_judge_that_breaks_on_one_rank_ends_the_run_with_its_message(launch, tmp_path):
    """The other one does not wait for it; what that one says is tested where nobody ends it from outside."""
    done = launch(tmp_path, "breaks", "ddp", 2, 4, 1, FEWER)
    assert done.returncode != 0
    assert "ValueError: the judge is broken" in done.stderr
