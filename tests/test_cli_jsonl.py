"""People's own scenes from the first look at them to the exported model.

Pictures under an own set of three actions, and spans of videos with texts.
"""

import json

import pytest
from layouts import write_video
from test_cli import run

from lvad.data.ledger import ledger_of_run
from lvad.taxonomy import find_taxonomy, load_taxonomy

LANES = load_taxonomy("lanes")
SHORT = [
    "--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1", "--trainer.enable_progress_bar", "false",
    "--trainer.accelerator", "cpu",
]  # fmt: skip
SMALL = [
    "--data.source.format", "jsonl", "--data.source.root", "mine",
    "--data.taxonomy", "mine.yaml", "--data.split.num_scenes", "{}", *SHORT,
]  # fmt: skip
EMBEDDED = """
trainer: {precision: 32-true}
model:
  init_args:
    policy:
      init_args: {model: embedded/vlm, images: {splitting: null}, sampling: {max_new_tokens: 8}}
data: {source: {root: mine/scenes.jsonl}, num_workers: 0}
"""
JUDGES = """
model:
  init_args:
    reward: {init_args: {model: embedded/clip-reward, pretrained: null}}
    judge: {init_args: {model: embedded/clip, pretrained: null}}
"""

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


def test_a_video_with_texts_from_check_to_export(tmp_path):
    """The stages of docs/data.md: RLOO on the spans, then their texts on its model."""
    (tmp_path / "mine").mkdir()
    rows = []
    for split, text in (("train", "The car stops."), ("val", "It is night."), ("test", "The car turns left.")):
        write_video(tmp_path / f"mine/{split}.mp4", 24, fps=4)
        row = {"video": f"{split}.mp4", "split": split, "text": text}
        rows += [row | {"start_s": start_s, "end_s": start_s + 4} for start_s in (0, 2)]
    (tmp_path / "mine/scenes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "embedded.yaml").write_text(EMBEDDED)
    (tmp_path / "judges.yaml").write_text(JUDGES)
    checked = json.loads(run("data", "check", "mine/scenes.jsonl", "--json", cwd=tmp_path).stdout)
    assert (checked["splits"], checked["errors"]) == ({"train": 2, "val": 2, "test": 2}, [])
    assert checked["texts"] == checked["splits"]

    embedded, judges = ["--config", "embedded.yaml"], ["--config", "judges.yaml"]
    run("fit", "--config", "configs/bddx/rloo.yaml", *embedded, *judges, *SHORT, cwd=tmp_path)
    metrics = json.loads((tmp_path / "logs/bddx_rloo/version_0/metrics.json").read_text())
    assert {"val/reward", "val/judge", "val/judge_start"} <= set(metrics)
    start = ["--model.init_args.policy.init_args.model", "logs/bddx_rloo/version_0/model"]
    run("fit", "--config", "configs/bddx/caption_sft.yaml", *embedded, *SHORT, *start, cwd=tmp_path)
    folder = tmp_path / "logs/bddx_caption_sft/version_0"
    spans = {split: [f"{split}-0-4", f"{split}-2-6"] for split in checked["splits"]}
    assert ledger_of_run(folder) == {
        "RLOOPolicy train, unlabelled": spans["train"], "RLOOPolicy val, labelled": spans["val"],
        "ActionSFT train, labelled": spans["train"], "ActionSFT val, labelled": spans["val"],
    }  # fmt: skip
    run("test", cwd=tmp_path)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"val/bleu4", "test/bleu4", "test/rouge_l", "test/loss"} <= set(metrics)
    weights = ["--config", f"{folder}/config.yaml", "--ckpt_path", f"{folder}/checkpoints/best.ckpt"]
    run("predict", *weights, cwd=tmp_path)
    said = [json.loads(line) for line in (tmp_path / "predictions/predictions.jsonl").read_text().splitlines()]
    assert {row["id"] for row in said} == {name for names in spans.values() for name in names}
    assert all(row["description"] for row in said)
    run("export", folder, "out", cwd=tmp_path)
    asked = json.loads((tmp_path / "out/prompts.json").read_text())
    assert asked["describe"] == "What does the car do, and why?"
