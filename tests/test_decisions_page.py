"""The line of JSON on docs/stages/action_sft.md has the keys of the lines that a prediction writes."""

import json

import pytest
from pages import blocks
from PIL import Image
from small_fits import LORA

from lvad.cli import main


@pytest.mark.slow
def test_a_prediction_has_the_keys_and_kinds_of_values_of_the_page(fit, tmp_path, monkeypatch):
    run = fit("two_stage", *LORA)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48), "grey").save("street.jpg")
    assert main(["predict", "street.jpg", "--ckpt_path", str(run / "checkpoints/last.ckpt"), "--out", "seen"]) == 0
    found = json.loads((tmp_path / "seen/predictions.jsonl").read_text())
    (block,) = blocks("docs/stages/action_sft.md", "json")
    shown = json.loads(block.text)
    assert list(found) == list(shown)
    assert {key: type(value) for key, value in found.items()} == {key: type(value) for key, value in shown.items()}
    assert found["action_probabilities"].keys() == shown["action_probabilities"].keys()
    assert found["reason_probabilities"].keys() > shown["reason_probabilities"].keys()
