"""Two processes, or several small batches, are one large batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from two_ranks import Job

SCRIPT = Path(__file__).resolve().parents[1] / "two_ranks.py"
# Two steps of 8 scenes, of which the epoch has too few: the second step is smaller, and so is its last batch.
FEWER, FEWEST = 14, 11
ALONE = {stage: Job(stage, 1, 8, 1, FEWER) for stage in ("rloo", "a2c2", "sft", "clip")}
BY_TWO = {stage: Job(stage, 2, 4, 1, FEWER) for stage in ALONE}
SHARDED = {stage: Job(stage, 2, 4, 1, FEWER, "fsdp") for stage in ("rloo", "sft")}
# The last step has 3 scenes, in batches of 2 and 1 where 4 batches of 2 are accumulated.
FEWEST_ALONE = {stage: Job(stage, 1, 8, 1, FEWEST) for stage in ("a2c", "sft", "clip")}
ACCUMULATED = {stage: Job(stage, 1, 2, 4, FEWEST) for stage in FEWEST_ALONE}
ACCUMULATED_BY_TWO = Job("sft", 2, 2, 2, FEWER)
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.fixture(scope="module")
def launch(vlm_folder, clip_folder, drawn_root):
    def start(folder, jobs, launcher=()):
        paths = [SCRIPT, folder, vlm_folder, clip_folder, drawn_root]
        command = [sys.executable, *launcher, *map(str, paths), json.dumps(jobs)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
        return subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)

    return start


@pytest.fixture(scope="module")
def results(launch, tmp_path_factory):
    """Gradients and scores of every job; processes are started once for all jobs of one process, and of two."""
    found = {}
    of_one = [*ALONE.values(), *FEWEST_ALONE.values(), *ACCUMULATED.values()]
    of_two = [*BY_TWO.values(), *SHARDED.values(), ACCUMULATED_BY_TWO]
    for jobs, launcher in ((of_one, ()), (of_two, TORCHRUN)):
        folder = tmp_path_factory.mktemp("ranks")
        done = launch(folder, jobs, launcher)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "sync_dist" not in done.stderr  # Lightning warns of values that may be of one rank alone
        for number, job in enumerate(jobs):
            own = folder / str(number)
            found[job] = torch.load(own / "gradients.pt"), json.loads((own / "scores.json").read_text())
    return found


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


@pytest.mark.slow
@pytest.mark.parametrize("stage", ALONE)
def test_two_ranks_are_one(results, stage):
    check(results[BY_TWO[stage]], results[ALONE[stage]])


@pytest.mark.slow
@pytest.mark.parametrize("stage", FEWEST_ALONE)
def test_accumulated_batches_are_one(results, stage):
    check(results[ACCUMULATED[stage]], results[FEWEST_ALONE[stage]])


@pytest.mark.slow
def test_accumulated_batches_of_two_ranks_are_one(results):
    check(results[ACCUMULATED_BY_TWO], results[ALONE["sft"]])


@pytest.mark.slow
@pytest.mark.parametrize("stage", SHARDED)
def test_shared_out_weights_are_the_same(results, stage):
    check(results[SHARDED[stage]], results[ALONE[stage]])


@pytest.mark.slow
def test_a_judge_that_breaks_on_one_rank_ends_the_run_with_its_message(launch, tmp_path):
    """The other one does not wait for it; what that one says is tested where nobody ends it from outside."""
    done = launch(tmp_path, [Job("breaks", 2, 4, 1, FEWER)])
    assert done.returncode != 0
    assert "ValueError: the judge is broken" in done.stderr
