"""The benchmark of a GPU on a CPU: its sections at tiny sizes, its limits, its counts of operations."""

import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gpu_bench.catalogue import SECTIONS, Entry, limit_s, load
from gpu_bench.isolated import Isolation
from gpu_bench.operations import Work, forward, gradient_pass, peak_rate
from gpu_bench.rows import Row, append, read
from gpu_bench.runs import largest_difference
from gpu_bench.steps import median_of
from gpu_bench.tables import line, table
from rloo_bench.geometries import GEOMETRIES, make_config, make_folder
from rloo_bench.ours import Ours
from rloo_bench.setting import Cost, Setting, Side
from transformers import Idefics3ForConditionalGeneration

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def run(record, *sections):
    command = [
        sys.executable,
        SCRIPT,
        *sections,
        "--json",
        record,
        "--commit",
        "here",
        "--logs",
        record.parent / "logs",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert record.exists(), done.stderr[-2000:]
    found = json.loads(record.read_text())
    said = {log.stem: log.read_text()[-2000:] for log in (record.parent / "logs").glob("*.log")}
    assert done.returncode == 0, (done.stdout[-2000:], said)
    return found, done.stdout


def test_the_cheap_sections_on_a_cpu(tmp_path):
    record, said = run(tmp_path / "gpu.json", "parity", "tokens", "steps_256m", "host_reads")
    assert {section["commit"] for section in record["sections"].values()} == {"here"}
    assert record["machine"]["torch"] == torch.__version__.split("+")[0]
    assert [*record["sections"]] == ["parity", "tokens", "steps_256m", "host_reads"]
    assert all(section["ended"] == "done" and section["rows"] for section in record["sections"].values())
    exact, *rounded = (row["figures"] for row in record["sections"]["parity"]["rows"])
    assert exact == {"logits": 0, "log_probs": 0, "gradient": 0, "same_draws": 1}  # the same device
    assert all(row["gradient"] > 0 for row in rounded)
    (tokens,) = record["sections"]["tokens"]["rows"]
    assert tokens["figures"]["ms_per_token"] > 0
    assert json.loads(said.splitlines()[-1]) == record
    assert "| tokens | R = 4, eager | ms_per_token" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "section", ["main_job", "stages_32_true", "stages_bf16_mixed", "stages_bf16_true", "steps_2b", "qlora", "torchrun"]
)
def test_the_other_sections_on_a_cpu(tmp_path, section):
    record, _ = run(tmp_path / "gpu.json", section)
    assert record["sections"][section]["rows"]


@pytest.mark.slow
def test_a_killed_fit_goes_on_with_the_same_bits(tmp_path):
    record, _ = run(tmp_path / "gpu.json", "resume")
    killed, went_on = record["sections"]["resume"]["rows"]
    assert killed["figures"]["step"] < 6
    assert went_on["figures"] == {"differences": 0, "largest_of_weights": 0.0}


def hangs(bench):
    yield Row("before", {"seconds": 1.5})
    asleep = subprocess.Popen(["sleep", "100"])
    Path("pid").write_text(str(asleep.pid))
    asleep.wait()


def crashes(bench):
    yield Row("before", passed=True)
    raise RuntimeError("the card is on fire")


def fails(bench):
    yield Row.judged("step", {"seconds": 1.5}, {"seconds": 1.0})


@pytest.fixture
def outcome(tmp_path):
    def of(section, limit_s=30):
        entry = Entry(f"{__name__}:{section.__name__}", 60)
        return Isolation(tmp_path, "fork").run(section.__name__, entry, limit_s)

    return of


def test_a_hang_ends_with_what_it_started_and_leaves_its_rows(outcome, tmp_path):
    start_s = time.perf_counter()
    found = outcome(hangs, 3)
    assert time.perf_counter() - start_s < 30
    assert found.ended == "stopped after 3 s"
    assert [row["name"] for row in found.rows] == ["before"]
    assert not found.is_good
    asleep = Path("/proc", (tmp_path / "hangs.work/pid").read_text(), "stat")
    assert not asleep.exists() or ") Z " in asleep.read_text()


def test_a_crash_says_why_and_leaves_its_rows(outcome):
    found = outcome(crashes)
    assert found.ended == "exit code 1: RuntimeError: the card is on fire"
    assert found.rows == [{"name": "before", "figures": {}, "passed": True, "note": ""}]
    assert not found.is_good


def test_a_missed_bar_is_named(outcome):
    found = outcome(fails)
    assert found.ended == "done"
    assert not found.is_good
    section = asdict(found) | {"commit": "0123456789ab"}
    assert line(section).splitlines()[1].strip() == "step (seconds > 1)"
    assert table({"fails": section}).splitlines()[2] == "| fails | step | seconds 1.5 | FAIL seconds > 1 | `0123456` |"


def test_bars_hold_at_their_values_and_refuse_what_is_no_number():
    assert Row.judged("a", {"x": 1.0, "y": 2.0}, {"x": 1.0}, {"y": 2.0}).passed
    assert Row.judged("a", {"x": float("nan")}, {"x": 1.0}).passed is False
    assert Row.judged("a", {"x": 1.0}).passed is None


def test_a_row_that_was_broken_off_is_left_out(tmp_path):
    append(tmp_path / "rows", Row("whole", {"x": 1.0}))
    with (tmp_path / "rows").open("a") as file:
        file.write('{"name": "hal')
    assert [row["name"] for row in read(tmp_path / "rows")] == ["whole"]


def test_essential_sections_come_first_and_have_five_minutes():
    kinds = [entry.is_essential for entry in SECTIONS.values()]
    assert kinds == sorted(kinds, reverse=True)
    assert limit_s("parity", 0) == SECTIONS["parity"].limit_s
    assert limit_s("stages_bf16_true", 280) == 20
    assert limit_s("stages_bf16_true", 301) < 1
    assert limit_s("steps_2b", 500) == 40
    assert limit_s("steps_2b", 500, slack=2) == 2 * SECTIONS["steps_2b"].limit_s
    assert all(callable(load(entry.function)) for entry in SECTIONS.values())


def test_the_longest_name_of_a_card_counts():
    assert peak_rate("NVIDIA H100 80GB HBM3") == 989.4e12
    assert peak_rate("NVIDIA H100 PCIe") == 756e12
    assert peak_rate("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_rate("Tesla T4") is None


@pytest.mark.parametrize(("lora", "frozen"), [(False, False), (False, True), (True, True)])
def test_operations_are_those_that_pytorch_counts(tmp_path, lora, frozen):
    setting = Setting("embedded", 1, 2, 2, 3, 5, lora, frozen, "float32", False)
    ours = Ours(Side(make_folder("embedded", 1, tmp_path, torch.float32), setting), checkpointing=False)
    config, work, rank = ours.module.policy.vlm.config, Work(ours.prompt_lengths(), 3, 5, 4), 16 * lora
    once = forward(config, work, rank)
    # PyTorch counts what is computed again: the logits, and the scores in attention's backward pass, 5 products for 4.
    again = once.head + once.attention / 2 + (0 if frozen else once.tower_attention / 2)
    assert ours.gradient_operations() == pytest.approx(gradient_pass(config, work, rank, not frozen) + again, rel=0.01)


def test_operations_by_hand():
    text = SimpleNamespace(
        hidden_size=4, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=2, vocab_size=10,
    )  # fmt: skip
    vision = SimpleNamespace(hidden_size=4, image_size=8, patch_size=4, intermediate_size=8, num_hidden_layers=1)
    work = Work((3, 5), 2, 4, 1)
    assert work.fed == 3 + 5 + 2 * 2 * 3
    assert work.pairs == (9 / 2 + 2 * 3 * 3 + 2 * 9 / 2) + (25 / 2 + 2 * 3 * 5 + 2 * 9 / 2)
    once = forward(SimpleNamespace(text_config=text, vision_config=vision), work, 0)
    assert once.layers == 2 * 20 * 2 * (
        4 * 4 + 2 * 4 * 2 + 4 * 4 + 3 * 4 * 8
    )  # q, k and v, o, three of the gated layer
    assert once.attention == 2 * 2 * 2 * 4 * 83  # scores and values, 2 operations, 2 layers, 4 numbers, pairs
    assert once.head == 2 * 16 * 4 * 10
    assert once.tower == 2 * (4 * (4 * 16 + 2 * 4 * 8) + 4 * 4 * 4)  # 4 patches; one visual token of 2 x 2 of them
    assert once.tower_attention == 4 * 16 * 4


@pytest.mark.parametrize(("name", "billions"), [("smolvlm-256m", 0.256), ("smolvlm-2b", 2.246)])
def test_the_geometries_have_the_published_sizes(name, billions):
    geometry = GEOMETRIES[name]
    with torch.device("meta"):
        model = Idefics3ForConditionalGeneration(make_config(geometry, 2, 49190))
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=2e-3)
    assert geometry.tokens_per_tile == {"smolvlm-256m": 64, "smolvlm-2b": 81}[name]


def test_the_largest_difference_of_weights():
    left = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3])}
    assert largest_difference(left, left) == 0
    assert largest_difference(left, {**left, "a": torch.tensor([1.0, 2.5])}) == 0.5
    assert largest_difference(left, {"a": left["a"]}) == float("inf")


def test_medians_are_taken_phase_by_phase():
    costs = [Cost(wall_s, 0.0, 0.0, {"decode": decode_s}) for wall_s, decode_s in ((3, 1), (1, 3), (2, 2))]
    assert median_of(costs) == {"step_s": 2, "decode_s": 2}
