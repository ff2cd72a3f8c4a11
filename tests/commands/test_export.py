"""``lvad export`` as a user meets it: what it writes is read without lvad and says the same."""

import json
import re

import open_clip
import pytest
import torch
import yaml
from exporting import fails, frames_of, loaded, plain_texts, policy_texts, run_snippet
from peft import PeftModel
from PIL import Image
from rloo_bench.geometries import GEOMETRIES, make_smolvlm
from small_fits import LEARN, LORA, POLICY, WHOLE
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from lvad.cli import main
from lvad.data.ledger import read_ledger
from lvad.policy.adapters import start_of
from lvad.rewards.clip import CLIP


def test_the_policy_says_the_same_in_plain_transformers(lora_run, exported):
    prompts = json.loads((exported / "prompts.json").read_text())
    assert prompts["describe"] == "Describe the driving scene."
    assert "what is the next action" in prompts["decide"]
    model, processor = AutoModelForImageTextToText.from_pretrained(exported), AutoProcessor.from_pretrained(exported)
    assert processor.tokenizer.padding_side == "left"
    scenes = frames_of(lora_run)
    said = plain_texts(model.eval(), processor, scenes, prompts["describe"])
    assert said == policy_texts(lora_run, prompts["describe"])
    assert model.generation_config.max_new_tokens == 10
    assert not model.generation_config.do_sample
    start = AutoModelForImageTextToText.from_pretrained(loaded(lora_run).module.policy.source).eval()
    generation = GenerationConfig.from_pretrained(exported)
    assert said != plain_texts(start, processor, scenes, prompts["describe"], generation_config=generation)


def test_what_lies_in_the_folder(lora_run, exported):
    names = {path.name for path in exported.iterdir()}
    assert {"README.md", "ledger.json", "prompts.json", "model.safetensors", "chat_template.jinja"} <= names
    assert read_ledger(exported) == read_ledger(lora_run)
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1
    assert [path.name for path in exported.parent.iterdir()] == ["driver"]


def test_the_cards_code_runs(lora_run, exported, monkeypatch, capsys):
    card = (exported / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "transformers"
    assert "base_model" not in front  # it lies in no hub
    assert "| RLOOPolicy train, unlabelled | 8 |" in card
    assert "| reward | " in card
    assert run_snippet(exported, frames_of(lora_run)[0], monkeypatch, capsys).strip()


def test_half_precision_is_read_as_such(lora_run, tmp_path, capsys):
    assert main(["export", str(lora_run), str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    assert re.search(r"rounding to bfloat16 changes \d of 4 greedy texts", capsys.readouterr().out)
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "half", dtype="auto").dtype == torch.bfloat16


@pytest.mark.slow
def test_all_weights(fit, tmp_path, capsys):
    run = fit("action_sft", *WHOLE)
    assert main(["export", str(run), str(tmp_path / "baseline")]) == 0
    assert "copying moves a logit by at most 0.0e+00" in capsys.readouterr().out
    question = json.loads((tmp_path / "baseline/prompts.json").read_text())["decide"]
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "baseline").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "baseline")
    assert plain_texts(model, processor, frames_of(run), question) == policy_texts(run, question)
    card = (tmp_path / "baseline/README.md").read_text()
    assert 'prompts["decide"]' in card
    assert "are decoded over their grammar" in card
    assert "no adapters; leave --adapter out" in fails(capsys, run, tmp_path / "adapter", "--adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.slow
def test_a_base_in_four_bits_is_written_as_it_speaks(fit, tmp_path, capsys):
    run = fit("rloo", *LORA, LEARN, "0.05", f"{POLICY}.in_four_bits", "true")
    assert main(["export", str(run), str(tmp_path / "whole")]) == 0
    assert "merging moves a logit by at most" in capsys.readouterr().out
    question = json.loads((tmp_path / "whole/prompts.json").read_text())["describe"]
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "whole").eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    processor = AutoProcessor.from_pretrained(tmp_path / "whole")
    assert plain_texts(model, processor, frames_of(run), question) == policy_texts(run, question)
    assert "trained on a base in 4 bits" in fails(capsys, run, tmp_path / "adapter", "--adapter")


def test_the_adapters_alone(lora_run, vlm_folder, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "adapter"
    assert main(["export", str(lora_run), str(folder), "--adapter"]) == 0
    assert not (folder / "model.safetensors").exists()
    base = AutoModelForImageTextToText.from_pretrained(vlm_folder)
    model = PeftModel.from_pretrained(base, str(folder)).eval()
    processor = AutoProcessor.from_pretrained(vlm_folder, padding_side="left")
    question = json.loads((folder / "prompts.json").read_text())["describe"]
    generation = GenerationConfig.from_pretrained(folder)
    said = plain_texts(model, processor, frames_of(lora_run), question, generation_config=generation)
    assert said == policy_texts(lora_run, question)
    assert yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])["library_name"] == "peft"
    assert run_snippet(folder, frames_of(lora_run)[0], monkeypatch, capsys).strip()
    assert "--num_scenes must be at least 1, got 0" in fails(capsys, lora_run, folder, "--num_scenes", "0")
    assert "leave one of the two out" in fails(capsys, lora_run, folder, "--adapter", "--dtype", "float16")


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "dtype"), [("lora", "bfloat16"), ("whole", "float32")])
def test_both_stages(fit, tmp_path, weights, dtype, monkeypatch, capsys):
    run = fit("two_stage", *(LORA if weights == "lora" else WHOLE), LEARN, "0.01")
    folder = tmp_path / "stages"
    assert main(["export", str(run), str(folder), "--dtype", dtype]) == 0
    assert ("rounding to bfloat16 changes" in capsys.readouterr().out) == (dtype == "bfloat16")
    assert {path.name for path in folder.iterdir()} >= {"answer", "model.safetensors", "prompts.json"}
    assert (folder / "answer/adapter_model.safetensors").is_file() == (weights == "lora")
    assert not (folder / "answer/README.md").exists()
    assert run_snippet(folder, frames_of(run)[0], monkeypatch, capsys).strip()
    # The first stage is the start, whatever the second learnt.
    policy = loaded(run).module.policy
    start = start_of(policy.model) if weights == "lora" else policy._reference[0].model
    found = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
    torch.testing.assert_close(found.state_dict(), start.to(getattr(torch, dtype)).state_dict(), rtol=0, atol=0)


def test_a_reward_is_read_by_open_clip(clip_run, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "reward"
    assert main(["export", str(clip_run), str(folder)]) == 0
    assert "plain open_clip on the written files gives the same" in capsys.readouterr().out
    plain = open_clip.create_model_and_transforms(f"local-dir:{folder}")[0]
    kept = CLIP(str(clip_run / "model")).clip.state_dict()  # of the fit's own export
    torch.testing.assert_close(dict(plain.state_dict()), dict(kept))
    assert run_snippet(folder, frames_of_any(), monkeypatch, capsys).startswith("{'traffic light is not green'")
    assert main(["export", str(clip_run), str(folder), "--overwrite", "--dtype", "float16"]) == 0
    assert "rounding to float16 moves a cosine by at most" in capsys.readouterr().out
    assert "a reward has no adapters" in fails(capsys, clip_run, tmp_path / "adapter", "--adapter")


def frames_of_any():
    return [Image.new("RGB", (128, 128), (90, 120, 40))]


@pytest.mark.slow
def test_the_text_model_of_smolvlm_256m(fit, tmp_path):
    """Real shapes of the text model, random weights: adapters, one step, and the same text in plain transformers."""
    make_smolvlm(tmp_path / "vlm", GEOMETRIES["smolvlm-256m-litevision"], torch.bfloat16)
    processor = AutoProcessor.from_pretrained(tmp_path / "vlm")
    processor.image_processor.do_image_splitting = False  # one tile a frame: the time is what is short
    processor.image_processor.size = {"longest_edge": 512}
    processor.save_pretrained(tmp_path / "vlm")
    run = fit(
        "rloo", *LORA, LEARN, "0.02", f"{POLICY}.model", tmp_path / "vlm", "--recorder.export", "false",
        "--data.split.num_scenes", "{train: 1, val: 1, test: 1}", "--data.source.num_frames", "1",
        "--plan.preflight", "false",
    )  # fmt: skip
    assert main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints/best.ckpt")]) == 0
    assert main(["export", str(run), str(tmp_path / "out"), "--dtype", "float32"]) == 0
    question = json.loads((tmp_path / "out/prompts.json").read_text())["describe"]
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto").eval()
    said = plain_texts(model, AutoProcessor.from_pretrained(tmp_path / "out"), frames_of(run), question)
    assert said == policy_texts(run, question)
    assert "| reward | " in (tmp_path / "out/README.md").read_text()
