"""The whole method with three actions and six reasons instead of BDD-OIA's: nothing is wired to those."""

import csv
import json

import pytest
from small_fits import run_here
from test_cli import run

from lvad.report.answers_file import read_answers
from lvad.taxonomy import BDD_OIA, find_taxonomy, load_taxonomy

LANES = load_taxonomy("lanes")
SMALL = [
    "--data.taxonomy", "lanes", "--data.source.root", "drawn", "--data.source.drawing_seed", "0",
    "--data.split.num_scenes", "{train: 32, val: 16, test: 16}", "--trainer.max_epochs", "1",
    "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu",
]  # fmt: skip
REWARD, POLICY = "logs/clip_reward/version_0/model", "logs/rloo/version_0/model"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cwd(tmp_path_factory):
    """All three stages, fitted, and the first and the last tested."""
    cwd = tmp_path_factory.mktemp("lanes")
    run_here("fit", "--config", "configs/clip_reward.yaml", *SMALL, cwd=cwd)
    run_here("test", cwd=cwd)
    options = ["--model.init_args.num_completions", "2", "--model.init_args.audit", "warn"]
    reward = ["--model.init_args.reward.init_args.model", REWARD]
    run_here("fit", "--config", "configs/rloo.yaml", *SMALL, *options, *reward, cwd=cwd)
    options = ["--trainer.check_val_every_n_epoch", "1", "--model.init_args.logit_adjustment", "0.5"]
    models = ["--model.init_args.policy.init_args.model", POLICY, "--model.init_args.judge.init_args.model", REWARD]
    run_here("fit", "--config", "configs/two_stage.yaml", *SMALL, *options, *models, cwd=cwd)
    run_here("test", cwd=cwd)
    return cwd


def test_the_test_speaks_of_its_own_labels(cwd):
    folder = cwd / "logs/two_stage/version_0"
    assert find_taxonomy(folder) == find_taxonomy(folder / "model") == find_taxonomy(cwd / REWARD) == LANES
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {f"test/action_f1/{name}" for name in LANES.action_names} <= set(metrics)
    assert {f"test/reason_f1/{key}" for key in LANES.reason_keys} <= set(metrics)
    assert "test/always_wait/action_macro_f1" in metrics
    assert not [name for name in metrics if name.endswith(("/forward", "always_stop/action_macro_f1"))]
    assert metrics["test/parse_failure"] == 0  # answers are drawn over the grammar of these labels
    answered = read_answers(folder / "answers.jsonl", LANES)
    assert len(answered) == 16
    assert all(len(scene.action_probabilities) == 3 and len(scene.reason_probabilities) == 6 for scene in answered)
    assert [row["label"] for row in csv.DictReader((folder / "labels.csv").open())] == list(LANES.labels)
    page = (folder / "gallery.html").read_text()
    assert page.count('title="right lane: ') == 16
    assert "forward" not in page


def test_predictions_and_exports_name_them(cwd):
    folder = "logs/two_stage/version_0"
    weights = ["--config", f"{folder}/config.yaml", "--ckpt_path", f"{folder}/checkpoints/best.ckpt"]
    run_here("predict", *weights, cwd=cwd)
    rows = [json.loads(line) for line in (cwd / "predictions/predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 64
    assert all(list(row["action_probabilities"]) == list(LANES.action_names) for row in rows)
    assert {name for row in rows for name in row["reasons"]} <= set(LANES.reason_texts)
    run_here("export", folder, "out", cwd=cwd)
    assert find_taxonomy(cwd / "out") == LANES
    question = json.loads((cwd / "out/prompts.json").read_text())["decide"]
    assert "<wait, change to the left lane, change to the right lane>?" in question
    run_here("export", "logs/clip_reward/version_0", "clip", cwd=cwd)
    said = run("report", folder, cwd=cwd).stdout
    assert "always wait" in said
    assert "right lane" in said


def test_another_set_is_refused_in_one_line(cwd):
    other = [*SMALL, "--data.taxonomy", "bdd_oia", "--data.source.root", "other"]
    policy = ["--model.init_args.policy.init_args.model", "logs/two_stage/version_0/model"]
    done = run("fit", "--config", "configs/two_stage.yaml", *other, *policy, cwd=cwd, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "two_stage/version_0/model: was made with the label set 'lanes', the data have 'bdd_oia'" in last
    done = run("data", "check", "drawn", cwd=cwd, check=False)
    assert done.returncode == 1
    assert f"actions of 'bdd_oia' alone: '{BDD_OIA.action_names[0]}'" in done.stdout
    assert "right_solid" in run("data", "check", "drawn", "--taxonomy", "lanes", cwd=cwd).stdout
