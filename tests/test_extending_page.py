"""The files of docs/extending.md do what the page says."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from pages import blocks
from PIL import Image

from lvad.assets import resolve_config
from lvad.cli import main

PAGE = "docs/extending.md"
FILES = {block.file: block.text for kind in ("python", "yaml", "text") for block in blocks(PAGE, kind) if block.file}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with the files of the page."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_run_with_ones_own_policy_reward_and_estimator(folder, drawn_root):
    own = [word for name in ("policy", "reward", "estimator") for word in ("--config", f"{name}.yaml")]
    small = (
        "--data.batch_size 4 --data.split.num_scenes.train 8 --trainer.max_steps 1 --model.init_args.num_completions 2"
    )
    data = [
        "--data.source.format",
        "lastframe",
        "--data.source.root",
        str(drawn_root),
        "--trainer.num_sanity_val_steps",
        "0",
    ]
    configuration = str(resolve_config("configs/rloo.yaml"))
    args = ["fit", "--config", configuration, *own, *data, *small.split(), "--trainer.accelerator", "cpu"]
    # A process of its own: what one call lets through is let through without a word later in the same process.
    done = subprocess.run([sys.executable, "-m", "lvad.cli", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"asks for {name}" in done.stderr for name in ("my_policy.OneOfMany", "my_reward.Mentions"))
    assert "run: logs/rloo/version_0" in done.stdout
    assert Path("logs/rloo/version_0/model/weights.pt").is_file()


def test_ones_own_layout_becomes_lines(folder, capsys):
    for name in ("1", "2"):
        Path("cam").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(f"cam/{name}.jpg")
    runpy.run_path("to_lines.py")
    assert main(["data", "check", "scenes.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "images: 2 of 2 decoded" in said
    assert "0 errors" in said


def test_the_families_are_as_the_page_lists_them(capsys):
    (block,) = [block for block in blocks(PAGE, "python") if not block.file]
    exec(block.text, {})
    assert "qwen3_vl" in capsys.readouterr().out
