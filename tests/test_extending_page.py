"""The files of docs/extending.md do what the page says."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pages import blocks, lvad_commands
from PIL import Image
from tiny_families import make_family
from transformers import AutoModelForImageTextToText

from lvad.cli import main
from lvad.policy import HFPolicy, Sampling
from lvad.policy.families import FAMILIES
from lvad.policy.pixels import ImageOptions
from lvad.policy.tokens import chat_inputs

PAGE = "docs/extending.md"
FILES = {block.file: block.text for kind in ("python", "yaml", "text") for block in blocks(PAGE, kind) if block.file}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with the files of the page."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


FITS = {shlex.join(command): command for command in lvad_commands(PAGE) if command[0] == "fit"}
"""The fits of the page."""
SMALL = [
    "--data.batch_size", "4", "--data.split.num_scenes.train", "8", "--data.source.format", "lastframe",
    "--model.init_args.num_completions", "2", "--trainer.max_steps", "1", "--trainer.num_sanity_val_steps", "0",
    "--trainer.accelerator", "cpu",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", FITS.values(), ids=FITS)
def test_a_run_with_ones_own_class(command, folder, drawn_root):
    # A process of its own: what one call lets through is let through without a word later in the same process.
    args = [*command, *SMALL, "--data.source.root", str(drawn_root)]
    done = subprocess.run([sys.executable, "-m", "lvad.cli", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    own = {word for word in command if word in FILES}
    assert own
    named = {name for file in own for name in re.findall(r"\bmy_\w+\.\w+", FILES[file])}
    assert {name for name in named if f"asks for {name}" in done.stderr} == named
    assert "run: logs/rloo/version_0" in done.stdout
    assert Path("logs/rloo/version_0/model/weights.pt").is_file() == ("policy.yaml" in own)


def test_each_configuration_of_the_page_is_in_one_of_its_fits():
    assert {word for command in FITS.values() for word in command} >= {name for name in FILES if name.endswith("yaml")}


def test_ones_own_layout_becomes_lines(folder, capsys):
    for name in ("1", "2"):
        Path("cam").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(f"cam/{name}.jpg")
    runpy.run_path("to_lines.py")
    assert main(["data", "check", "scenes.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "images: 2 of 2 decoded" in said
    assert "0 errors" in said


def separate_logps(policy, batch, rollouts):
    """The log-probability of each completion by plain transformers, which reads prompt and frames anew for each."""
    plain = AutoModelForImageTextToText.from_pretrained(policy.source)
    rows = []
    for scene, frames in enumerate(batch.frames):
        inputs = chat_inputs(policy.processor, batch._replace(frames=[frames]), [policy.prompts.describe])
        for tokens, mask in zip(rollouts.tokens[scene], rollouts.completion_mask[scene], strict=True):
            ids = torch.cat([inputs["input_ids"], tokens[None]], 1)
            logits = plain(input_ids=ids, pixel_values=inputs["pixel_values"]).logits[0, -len(tokens) - 1 : -1]
            logps = logits.masked_fill(policy.banned, -torch.inf).log_softmax(-1)
            rows.append(logps.gather(1, tokens[:, None])[:, 0].masked_fill(~mask, 0.0))
    return torch.stack(rows).view(rollouts.tokens.shape)


def test_ones_own_family_has_the_log_probabilities_of_transformers(folder, make_batch, monkeypatch):
    monkeypatch.setitem(FAMILIES, "llava", None)  # taken out again at the end
    runpy.run_path("my_family.py")
    make_family("llava", folder / "tiny_llava")
    policy, batch = HFPolicy("tiny_llava", Sampling(max_new_tokens=6)), make_batch(1, 2)
    prefix = policy.encode(batch)
    rollouts = policy.generate(prefix, 3)
    found, expected = policy.logprobs(prefix, rollouts), separate_logps(policy, batch, rollouts)
    mask = rollouts.completion_mask
    assert expected[mask].std() > 0.5
    torch.testing.assert_close(found[mask], expected[mask], rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="max_tokens must be >= 4"):
        HFPolicy("tiny_llava", images=ImageOptions(max_tokens=3))
