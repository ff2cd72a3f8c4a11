"""One step of training and the export of each family, by the commands."""

import pytest
import torch
from safetensors.torch import load_file
from small_fits import LEARN, LORA, POLICY, WHOLE
from tiny_families import FAMILIES

from lvad.cli import main


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("weights", ["lora", "full"])
def test_a_step_and_an_export(fit, family_folder, tmp_path, capsys, name, weights):
    """``lvad export`` refuses what plain transformers does not say like the policy."""
    options = LORA
    if weights == "full":
        (tmp_path / "full.yaml").write_text("model: {init_args: {policy: {init_args: {lora: null}}}}")
        options = ["--config", tmp_path / "full.yaml", *WHOLE]
    run = fit(
        "rloo", *options, LEARN, "0.02", f"{POLICY}.model", family_folder(name), "--recorder.export", "false",
        "--data.split.num_scenes", "{train: 2, val: 2, test: 2}", "--data.batch_size", "2", "--trainer.max_steps", "1",
    )  # fmt: skip
    assert main(["export", str(run), str(tmp_path / "model"), "--num_scenes", "2"]) == 0
    assert "the greedy texts of plain transformers on the written files are identical" in capsys.readouterr().out
    before, after = (load_file(folder / "model.safetensors") for folder in (family_folder(name), tmp_path / "model"))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert any("layers.0.self_attn.q_proj" in key for key in changed)
    assert any("vis" in key for key in changed) == (weights == "full")
