"""The benchmark itself: its clock, its counts, and that both sides do the work they are compared on."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rloo_bench.geometries import make_folder
from rloo_bench.meters import Memory, Phases, count_operations
from rloo_bench.ours import Ours
from rloo_bench.setting import Setting, Side

from lvad.policy.attention import attend, attend_backward

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "rloo_step.py"
SETTING = Setting("embedded", 1, 2, 2, 3, 4, True, True, "float32", False)


def test_time_inside_counts_for_the_inner_phase_alone():
    phases = Phases()
    with phases.phase("outer"):
        time.sleep(0.02)
        with phases.phase("inner"):
            time.sleep(0.05)
    assert 0.02 <= phases.seconds["outer"] < 0.045
    assert phases.seconds["inner"] >= 0.05


def test_memory_is_what_is_held_on_top():
    memory, parameter = Memory(), torch.nn.Parameter(torch.zeros(1))
    with memory.measure([parameter]):
        held = torch.ones(64 * 2**18)
        del held
    assert 60 <= memory.peak_mib <= 90
    assert parameter.grad is not None


def test_operations_by_hand():
    q, k = torch.randn(1, 6, 4, 8), torch.randn(1, 10, 2, 8)
    with count_operations() as counter:
        part = attend(q, k, k, 1.0, causal=False)
        torch.randn(3, 5) @ torch.randn(5, 7)
    pairs = 4 * 6 * 10  # heads, queries, keys
    assert counter.get_total_flops() == 2 * 2 * pairs * 8 + 2 * 3 * 5 * 7
    with count_operations() as counter:
        attend_backward(q, q, k, k, part, 1.0, causal=False)
    assert counter.get_total_flops() == 5 * 2 * pairs * 8


@pytest.mark.parametrize("causal", [False, True])
def test_operations_of_cuda_kernels_with_shared_keys(causal):
    """Of tensors without memory: their kernels are not run."""
    q, k = torch.empty(2, 9, 4, 8, device="meta"), torch.empty(2, 3, 4, 8, device="meta")  # heads share keys by three
    halves = 2 if causal else 1
    pairs = 2 * 9 * 4 * 4
    with count_operations() as counter:
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, k, 0.0, causal)
    assert counter.get_total_flops() == 2 * 2 * pairs * 8 // halves
    with count_operations() as counter:
        backward = torch.ops.aten._scaled_dot_product_flash_attention_backward
        unused = torch.empty(0, dtype=torch.long, device="meta")
        backward(out, q, k, k, out, lse, None, None, 4, 4, 0.0, causal, unused, unused)
    assert counter.get_total_flops() == 5 * 2 * pairs * 8 // halves


def test_a_step_of_ours_is_taken_apart(tmp_path):
    ours = Ours(Side(make_folder("embedded", 1, tmp_path, torch.float32), SETTING), checkpointing=False)
    cost = ours.step(0, with_memory=False)
    assert set(cost.phases_s) == {"vision", "prefill", "decode", "forward", "backward", "reward", "rest"}
    # The clocks of the phases stop a little before that of the step: how much depends on what else the machine does.
    assert 0.5 * cost.wall_s < sum(cost.phases_s.values()) <= cost.wall_s
    assert cost.counts["tiles"] == 4
    (length,) = set(ours.prompt_lengths())
    assert cost.counts["positions"] == 2 * length + 2 * 3 * 3 + 2 * 3 * 3  # prompts, sampled, scored
    assert ours.gradient_operations() > 1e6


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs the extra 'bench'")
def test_both_trainers_of_the_peer_do_the_same_work(tmp_path):
    arguments = ["--geometry", "embedded", "--against", "rloo", "grpo", "--k", "2", "--tokens", "3", "--steps", "1"]
    rows_file = tmp_path / "rows.json"
    command = [sys.executable, SCRIPT, *arguments, "--json", rows_file, "--plot", tmp_path / "bars.png"]
    subprocess.run(command, check=True, capture_output=True)
    rows = json.loads(rows_file.read_text())
    assert [row["against"] for row in rows] == ["rloo", "grpo"]
    for row in rows:
        assert row["speedup"] > 0
        assert row["memory_ratio"] > 0
        assert row["lvad"]["counts"]["tiles"] == 1
    assert [row["trl"]["counts"]["tiles"] for row in rows] == [3 * 2, 2 * 2]  # K copies, three passes or two
    assert (tmp_path / "bars.png").stat().st_size > 1000
