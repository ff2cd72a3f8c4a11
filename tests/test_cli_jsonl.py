"""People's own scenes from the first look at them to the exported model.

Pictures under an own set of three actions, and spans of videos with texts.
"""

import json
from pathlib import Path

import pytest
from layouts import write_video
from pages import blocks, lvad_commands

from lvad.cli import main
from lvad.data.ledger import ledger_of_run
from lvad.taxonomy import find_taxonomy, load_taxonomy

LANES = load_taxonomy("lanes")
SHORT = [
    "--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1", "--trainer.enable_progress_bar", "false",
    "--trainer.accelerator", "cpu",
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


def test_all_stages_by_the_commands_of_the_page(tmp_path, monkeypatch):
    """Pictures with three actions of one's own, as docs/data.md says it, on few scenes and for one epoch."""
    monkeypatch.chdir(tmp_path)
    assert main(["data", "draw", "drawn", *"--num_train 16 --num_val 8 --num_test 8 --taxonomy lanes".split()]) == 0
    assert main(["data", "convert", "drawn", "depot/scenes.jsonl", "--taxonomy", "drawn/taxonomy.yaml"]) == 0
    Path("depot/labels.yaml").write_text(Path("drawn/taxonomy.yaml").read_text())
    (data,) = (block for block in blocks("docs/data.md", "yaml") if block.file == "depot/data.yaml")
    Path(data.file).write_text(data.text)
    Path("depot/cam").mkdir()
    Path("depot/cam/b.jpg").write_bytes(next(Path("drawn/data").glob("*.jpg")).read_bytes())
    commands = [words for words in lvad_commands("docs/data.md") if "depot" in " ".join(words)]
    assert [words[0] for words in commands] == ["data", "fit", "fit", "fit", "predict", "export"]
    for words in commands:
        # So few scenes tune no reward that an audit lets through.
        more = ["--model.init_args.audit", "warn"] if "configs/rloo.yaml" in words else []
        assert main([*words, *(SHORT if words[0] == "fit" else []), *more]) == 0
        if "configs/two_stage.yaml" in words:
            assert main(["test"]) == 0
    metrics = json.loads(Path("logs/two_stage/version_0/metrics.json").read_text())
    assert {f"test/action_f1/{name}" for name in LANES.action_names} <= set(metrics)
    (row,) = [json.loads(line) for line in Path("seen/predictions.jsonl").read_text().splitlines()]
    assert list(row["action_probabilities"]) == list(LANES.action_names)
    assert row["description"]
    assert find_taxonomy(Path("depot_model")) == LANES
    seen = ledger_of_run(Path("logs/two_stage/version_0"))
    assert {"CLIPReward train, labelled", "RLOOPolicy train, unlabelled", "ActionSFT train, labelled"} <= set(seen)


def test_a_video_with_texts_from_check_to_export(tmp_path, monkeypatch, capsys):
    """The stages of docs/data.md: RLOO on the spans, then their texts on its model."""
    monkeypatch.chdir(tmp_path)
    spans = write_spans(Path("mine"))
    Path("embedded.yaml").write_text(EMBEDDED)
    Path("judges.yaml").write_text(JUDGES)
    assert main(["data", "check", "mine/scenes.jsonl", "--json"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert (checked["splits"], checked["errors"]) == ({"train": 2, "val": 2, "test": 2}, [])
    assert checked["texts"] == checked["splits"]

    small = ["--config", "embedded.yaml", *SHORT]
    assert main(["fit", "--config", "configs/bddx/rloo.yaml", "--config", "judges.yaml", *small]) == 0
    metrics = json.loads(Path("logs/bddx_rloo/version_0/metrics.json").read_text())
    assert {"val/reward", "val/judge", "val/judge_start"} <= set(metrics)
    start = ["--model.init_args.policy.init_args.model", "logs/bddx_rloo/version_0/model"]
    assert main(["fit", "--config", "configs/bddx/caption_sft.yaml", *small, *start]) == 0
    folder = Path("logs/bddx_caption_sft/version_0")
    seen = ledger_of_run(folder)
    assert {use: seen[use] for use in seen if not use.startswith("CLIPReward")} == {  # the embedded reward has its own
        "RLOOPolicy train, unlabelled": spans["train"], "RLOOPolicy val, labelled": spans["val"],
        "ActionSFT train, labelled": spans["train"], "ActionSFT val, labelled": spans["val"],
    }  # fmt: skip
    assert main(["test"]) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"val/bleu4", "test/bleu4", "test/rouge_l", "test/loss"} <= set(metrics)
    weights = ["--config", f"{folder}/config.yaml", "--ckpt_path", f"{folder}/checkpoints/best.ckpt"]
    assert main(["predict", *weights]) == 0
    said = [json.loads(line) for line in Path("predictions/predictions.jsonl").read_text().splitlines()]
    assert {row["id"] for row in said} == {name for names in spans.values() for name in names}
    assert all(row["description"] for row in said)
    assert main(["export", str(folder), "out"]) == 0
    asked = json.loads(Path("out/prompts.json").read_text())
    assert asked["describe"] == "What does the car do, and why?"


def write_spans(folder):
    """A video of six seconds for each split, two spans in each; the ids that the spans have."""
    folder.mkdir()
    rows = []
    for split, text in (("train", "The car stops."), ("val", "It is night."), ("test", "The car turns left.")):
        write_video(folder / f"{split}.mp4", 24, fps=4)
        row = {"video": f"{split}.mp4", "split": split, "text": text}
        rows += [row | {"start_s": start_s, "end_s": start_s + 4} for start_s in (0, 2)]
    (folder / "scenes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {split: [f"{split}-0-4", f"{split}-2-6"] for split in ("train", "val", "test")}
