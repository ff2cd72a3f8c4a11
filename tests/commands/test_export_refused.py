"""What ``lvad export`` refuses to write, and what it leaves as it was."""

import re
import shutil

import torch
import yaml
from exporting import fails

from lvad.cli import main
from lvad.commands import export_write
from lvad.policy.adapters import start_of


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


def test_a_run_of_which_nobody_knows_what_it_saw_is_not_handed_on(lora_run, tmp_path, capsys):
    shutil.copytree(lora_run, tmp_path / "run", ignore=shutil.ignore_patterns("ledger.json", "model"))
    message = fails(capsys, tmp_path / "run", tmp_path / "out")
    assert "ledger.json: nothing tells which scenes the run has seen; restore it" in message


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
    said = fails(capsys, copy, tmp_path / "out")
    assert "holds 1 weights that this configuration does not train: ['policy.more']" in said
    torch.save({**content, "state_dict": dict(list(state.items())[1:])}, best)
    assert "lacks 1 of the " in fails(capsys, copy, tmp_path / "out")
    torch.save({**content, "state_dict": {name: values.unsqueeze(0) for name, values in state.items()}}, best)
    assert "weights of another shape" in fails(capsys, copy, tmp_path / "out")
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
    config["data"]["source"]["root"] = str(tmp_path / "gone")
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["export", str(copy), str(tmp_path / "out"), "--checkpoint", "last"]) == 0
    assert "the run's data cannot be read" in capsys.readouterr().out
    card = (tmp_path / "out/README.md").read_text()
    assert "4 prompts with synthetic frames: merging moves" in card
    assert "which is not the one exported here" in card


def test_a_disk_error_ends_in_one_line_and_leaves_nothing(lora_run, tmp_path, monkeypatch, capsys):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_write, "_save", full)
    assert "No space left on device" in fails(capsys, lora_run, tmp_path / "out")
    (tmp_path / "file").write_text("")
    assert "File exists" in fails(capsys, lora_run, tmp_path / "file" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
