"""Own pictures under an own set of three actions, from the first look at them to the exported model."""

import json

import pytest
from test_cli import run

from lvad.taxonomy import find_taxonomy, load_taxonomy

LANES = load_taxonomy("lanes")
SMALL = [
    "--data.source.format", "jsonl", "--data.source.root", "mine",
    "--data.taxonomy", "mine.yaml", "--data.split.num_scenes", "{}",
    "--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1", "--trainer.enable_progress_bar", "false",
    "--trainer.accelerator", "cpu",
]  # fmt: skip

pytestmark = pytest.mark.slow


def test_from_check_to_export(tmp_path):
    run("data", "draw", "drawn", *"--num_train 16 --num_val 8 --num_test 8 --taxonomy lanes".split(), cwd=tmp_path)
    (tmp_path / "mine.yaml").write_text((tmp_path / "drawn/taxonomy.yaml").read_text())
    run("data", "convert", "drawn", "mine/scenes.jsonl", "--taxonomy", "mine.yaml", cwd=tmp_path)
    checked = json.loads(run("data", "check", "mine", "--taxonomy", "mine.yaml", "--json", cwd=tmp_path).stdout)
    assert (checked["format"], checked["splits"]) == ("jsonl", {"train": 16, "val": 8, "test": 8})
    run("fit", "--config", "configs/action_sft.yaml", *SMALL, cwd=tmp_path)
    run("test", cwd=tmp_path)
    folder = tmp_path / "logs/action_sft/version_0"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {f"test/action_f1/{name}" for name in LANES.action_names} <= set(metrics)
    weights = ["--config", f"{folder}/config.yaml", "--ckpt_path", f"{folder}/checkpoints/best.ckpt"]
    run("predict", *weights, cwd=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "predictions/predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 32
    assert all(list(row["action_probabilities"]) == list(LANES.action_names) for row in rows)
    run("export", folder, "out", cwd=tmp_path)
    assert find_taxonomy(tmp_path / "out") == LANES
