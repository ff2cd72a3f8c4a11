"""``lvad export`` as a user meets it: what it writes is read without lvad and says the same."""

import functools
import json
import re
import shutil

import open_clip
import pytest
import torch
import yaml
from peft import PeftModel
from PIL import Image
from rloo_bench.geometries import GEOMETRIES, make_smolvlm
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from lvad.cli import main
from lvad.commands import export_check, export_write
from lvad.commands.export_load import load_run, scenes_to_try
from lvad.data.ledger import read_ledger
from lvad.policy.adapters import start_of
from lvad.rewards.clip import CLIP

POLICY = "--model.init_args.policy.init_args"
LEARN = "--model.init_args.optimizer.init_args.lr"
LORA = [f"{POLICY}.lora", "{rank: 4, alpha: 8}", f"{POLICY}.freeze_vision", "true"]
WHOLE = [f"{POLICY}.freeze_vision", "false"]  # as the configurations of the second stage have it


@pytest.fixture(scope="module")
def fit(tmp_path_factory, vlm_folder, clip_folder, drawn_root):
    """Two steps of a shipped configuration on random weights; the run's folder."""
    small = [
        "--data.root", drawn_root, "--data.format", "lastframe", "--data.num_scenes", "{train: 8, val: 4, test: 4}",
        "--data.batch_size", "4", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu",
        "--trainer.enable_progress_bar", "false", "--trainer.num_sanity_val_steps", "0",
        "--trainer.val_check_interval", "1.0", "--trainer.check_val_every_n_epoch", "1",
    ]  # fmt: skip
    policy = [f"{POLICY}.model", vlm_folder, f"{POLICY}.sampling.max_new_tokens", "10"]
    judged = {
        "rloo": ["--model.init_args.reward.init_args.model", clip_folder, "--model.init_args.judge", "null",
                 "--model.init_args.audit", "off", "--model.init_args.num_completions", "2",
                 "--checkpoint.monitor", "val/reward"],
        "action_sft": ["--model.init_args.judge", "null", f"{POLICY}.sampling.max_new_tokens", "40"],
        "two_stage": ["--model.init_args.judge", "null", "--model.init_args.constrain", "false"],
    }  # fmt: skip

    def run(stage, *options):
        root = tmp_path_factory.mktemp("logs")
        args = ["fit", "--config", f"configs/{stage}.yaml", *small, "--trainer.logger.init_args.save_dir", root]
        args += (
            [*policy, *judged[stage]] if stage in judged else ["--model.init_args.clip.init_args.model", clip_folder]
        )
        assert main([*map(str, args), *map(str, options)]) == 0
        return root / stage / "version_0"

    return run


@pytest.fixture(scope="module")
def lora_run(fit):
    return fit("rloo", *LORA, LEARN, "0.05")


@pytest.fixture(scope="module")
def clip_run(fit):
    return fit("clip_reward", "--model.init_args.wise_ft", "[0.5]")


@pytest.fixture(scope="module")
def exported(lora_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "driver"
    assert main(["export", str(lora_run), str(folder)]) == 0
    return folder


@functools.cache
def loaded(run_folder):
    return load_run(run_folder)


def policy_texts(run_folder, query):
    """What lvad's own policy says of the validation scenes, greedily."""
    run = loaded(run_folder)
    frames = scenes_to_try(run.data, 4).frames
    return [t.text for t in export_check.ask(run.module.policy, frames, [query] * len(frames))]


def frames_of(run_folder):
    scenes = scenes_to_try(loaded(run_folder).data, 4).frames
    return [[Image.fromarray(f.permute(1, 2, 0).numpy()) for f in scene] for scene in scenes]


def plain_texts(model, processor, scenes, query, **options):
    """All scenes in one batch, which needs the padding on the left."""
    chats = [
        [{"role": "user", "content": [*[{"type": "image"}] * len(s), {"type": "text", "text": query}]}] for s in scenes
    ]
    texts = [processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
    inputs = processor(text=texts, images=scenes, padding=True, return_tensors="pt")
    tokens = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]


def run_snippet(folder, frames, monkeypatch, capsys):
    """The card's own code, in a folder with a frame."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S).group(1)
    frames[0].save(folder / "frame.jpg", quality=95)
    capsys.readouterr()
    with monkeypatch.context() as here:
        here.chdir(folder)
        exec(compile(code, "card", "exec"), {})
    said = capsys.readouterr().out
    (folder / "frame.jpg").unlink()
    return said


def fails(capsys, *args):
    """The one line that an export ends with."""
    assert main(["export", *map(str, args)]) == 1
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("lvad: ")]
    assert len(lines) == 1
    assert error.endswith(lines[0] + "\n")
    assert lines[0].startswith("lvad: error: ")
    return lines[0]


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


def test_all_weights(fit, tmp_path, capsys):
    run = fit("action_sft", *WHOLE)
    assert main(["export", str(run), str(tmp_path / "baseline")]) == 0
    assert "copying moves a logit by at most 0.0e+00" in capsys.readouterr().out
    query = json.loads((tmp_path / "baseline/prompts.json").read_text())["decide"]
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "baseline").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "baseline")
    assert plain_texts(model, processor, frames_of(run), query) == policy_texts(run, query)
    card = (tmp_path / "baseline/README.md").read_text()
    assert 'prompts["decide"]' in card
    assert "are decoded over their grammar" in card
    assert "no adapters; leave --adapter out" in fails(capsys, run, tmp_path / "adapter", "--adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_base_in_four_bits_is_written_as_it_speaks(fit, tmp_path, capsys):
    run = fit("rloo", *LORA, LEARN, "0.05", f"{POLICY}.in_four_bits", "true")
    assert main(["export", str(run), str(tmp_path / "whole")]) == 0
    assert "merging moves a logit by at most" in capsys.readouterr().out
    query = json.loads((tmp_path / "whole/prompts.json").read_text())["describe"]
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "whole").eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    processor = AutoProcessor.from_pretrained(tmp_path / "whole")
    assert plain_texts(model, processor, frames_of(run), query) == policy_texts(run, query)
    assert "trained on a base in 4 bits" in fails(capsys, run, tmp_path / "adapter", "--adapter")


def test_the_adapters_alone(lora_run, vlm_folder, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "adapter"
    assert main(["export", str(lora_run), str(folder), "--adapter"]) == 0
    assert not (folder / "model.safetensors").exists()
    base = AutoModelForImageTextToText.from_pretrained(vlm_folder)
    model = PeftModel.from_pretrained(base, str(folder)).eval()
    processor = AutoProcessor.from_pretrained(vlm_folder, padding_side="left")
    query = json.loads((folder / "prompts.json").read_text())["describe"]
    generation = GenerationConfig.from_pretrained(folder)
    said = plain_texts(model, processor, frames_of(lora_run), query, generation_config=generation)
    assert said == policy_texts(lora_run, query)
    assert yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])["library_name"] == "peft"
    assert run_snippet(folder, frames_of(lora_run)[0], monkeypatch, capsys).strip()
    assert "--num_scenes must be at least 1, got 0" in fails(capsys, lora_run, folder, "--num_scenes", "0")
    assert "leave one of the two out" in fails(capsys, lora_run, folder, "--adapter", "--dtype", "float16")


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


def test_a_merge_that_forgets_the_adapters_is_caught(lora_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export_write, "merged", start_of)
    message = fails(capsys, lora_run, tmp_path / "out")
    assert re.search(r"merging changed the model: a logit moved by \d\S*, allowed are \d\S*e-\d+ ", message)
    assert not list(tmp_path.iterdir())


def test_a_merge_that_gives_no_numbers_is_caught(lora_run, tmp_path, monkeypatch, capsys):
    def broken(model):
        start = start_of(model)
        start.lm_head.weight.data[0, 0] = float("nan")
        return start

    monkeypatch.setattr(export_write, "merged", broken)
    assert "a logit moved by nan" in fails(capsys, lora_run, tmp_path / "out")


def test_files_that_say_something_else_are_caught(lora_run, exported, tmp_path, monkeypatch, capsys):
    """And the earlier export stays as it was."""
    folder = tmp_path / "out"
    shutil.copytree(exported, folder)
    before = (folder / "model.safetensors").read_bytes()
    save = export_write._save

    def spoilt(piece, *args):
        save(piece, *args)
        piece.model.model.text_model.norm.weight.data.neg_()
        piece.model.save_pretrained(args[0])

    monkeypatch.setattr(export_write, "_save", spoilt)
    message = fails(capsys, lora_run, folder, "--overwrite")
    assert re.search(r"read by plain transformers, says something else to \d of 4 prompts", message)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_is_replaced_unasked(lora_run, exported, tmp_path, capsys):
    assert "is not empty; give another folder, or --overwrite" in fails(capsys, lora_run, exported)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.tex").write_text("years of work")
    assert "holds files that no export wrote" in fails(capsys, lora_run, tmp_path / "home", "--overwrite")
    assert (tmp_path / "home/thesis.tex").read_text() == "years of work"
    assert "is a file" in fails(capsys, lora_run, tmp_path / "home/thesis.tex", "--overwrite")
    (tmp_path / "empty").mkdir()
    assert main(["export", str(lora_run), str(tmp_path / "empty"), "--checkpoint", "last"]) == 0
    (tmp_path / "empty/more").write_text("of no export")
    assert main(["export", str(lora_run), str(tmp_path / "empty"), "--overwrite"]) == 0
    assert not (tmp_path / "empty/more").exists()


def test_the_run_itself_is_safe(lora_run, vlm_folder, tmp_path, capsys):
    for folder in (lora_run, lora_run / "model", lora_run / "model/sub", lora_run / "checkpoints/x", lora_run.parent):
        message = fails(capsys, lora_run, folder, "--overwrite")
        assert "which the run needs" in message or "that no export wrote" in message
    assert "which the run needs" in fails(capsys, lora_run, vlm_folder / "sub")
    assert (lora_run / "model/model.safetensors").is_file()


def test_a_run_that_cannot_be_read_is_named(lora_run, tmp_path, capsys):
    assert "no run here: it holds no config.yaml" in fails(capsys, tmp_path / "nothing", tmp_path / "out")
    copy = tmp_path / "run"
    shutil.copytree(lora_run, copy)
    best, last = copy / "checkpoints/best.ckpt", copy / "checkpoints/last.ckpt"
    assert "no checkpoint at " in fails(capsys, copy, tmp_path / "out", "--checkpoint", copy / "other.ckpt")
    whole = best.read_bytes()
    best.write_bytes(whole[: len(whole) // 2])
    assert "best.ckpt: is no checkpoint that can be read" in fails(capsys, copy, tmp_path / "out")
    content = torch.load(last, weights_only=True)
    state = content["state_dict"]
    torch.save({**content, "state_dict": {**state, "policy.more": torch.zeros(1)}}, best)
    assert "holds 1 weights that the run's module lacks: ['policy.more']" in fails(capsys, copy, tmp_path / "out")
    torch.save({**content, "state_dict": dict(list(state.items())[1:])}, best)
    assert "lacks 1 weights that the run trains" in fails(capsys, copy, tmp_path / "out")
    torch.save({**content, "state_dict": {name: values.unsqueeze(0) for name, values in state.items()}}, best)
    assert "size mismatch" in fails(capsys, copy, tmp_path / "out")
    torch.save({"weights": 1}, best)
    assert "no state_dict and global_step" in fails(capsys, copy, tmp_path / "out")
    best.unlink()
    last.unlink()
    assert "no checkpoint: looked for best.ckpt and last.ckpt" in fails(capsys, copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_configuration_of_another_lvad_is_named(lora_run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(lora_run, copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["model"]["init_args"]["kl_beta"] = 0.1
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    message = fails(capsys, copy, tmp_path / "out")
    assert "config.yaml: does not fit this lvad (" in message
    assert "kl_beta" in message
    (copy / "config.yaml").write_text("- a list")
    assert "config.yaml: is no configuration" in fails(capsys, copy, tmp_path / "out")


def test_without_its_data_a_run_is_tried_on_drawn_frames(lora_run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(lora_run, copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["data"]["root"] = str(tmp_path / "gone")
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["export", str(copy), str(tmp_path / "out"), "--checkpoint", "last"]) == 0
    assert "the run's data cannot be read" in capsys.readouterr().out
    card = (tmp_path / "out/README.md").read_text()
    assert "4 prompts with drawn frames: merging moves" in card
    assert "which is not the one exported here" in card


def test_a_disk_error_ends_in_one_line_and_leaves_nothing(lora_run, tmp_path, monkeypatch, capsys):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_write, "_save", full)
    assert "No space left on device" in fails(capsys, lora_run, tmp_path / "out")
    (tmp_path / "file").write_text("")
    assert "File exists" in fails(capsys, lora_run, tmp_path / "file" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_smolvlm_256m(fit, tmp_path):
    """The published shapes with random weights: adapters, one step, and the same text in plain transformers."""
    make_smolvlm(tmp_path / "vlm", GEOMETRIES["smolvlm-256m"], torch.bfloat16)
    processor = AutoProcessor.from_pretrained(tmp_path / "vlm")
    processor.image_processor.do_image_splitting = False  # one tile a frame: the time is what is short
    processor.image_processor.size = {"longest_edge": 512}
    processor.save_pretrained(tmp_path / "vlm")
    run = fit(
        "rloo", *LORA, LEARN, "0.02", f"{POLICY}.model", tmp_path / "vlm", "--recorder.export", "false",
        "--data.num_scenes", "{train: 1, val: 2, test: 1}", "--data.num_frames", "1",
    )  # fmt: skip
    assert main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints/best.ckpt")]) == 0
    assert main(["export", str(run), str(tmp_path / "out"), "--dtype", "float32"]) == 0
    query = json.loads((tmp_path / "out/prompts.json").read_text())["describe"]
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto").eval()
    said = plain_texts(model, AutoProcessor.from_pretrained(tmp_path / "out"), frames_of(run), query)
    assert said == policy_texts(run, query)
    assert "| reward | " in (tmp_path / "out/README.md").read_text()
