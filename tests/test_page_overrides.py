"""The YAML of the pages on algorithms and rewards is put on top of the main job and trains."""

import shutil

import pytest
from pages import blocks

from lvad.data.synthetic import write_synthetic

PAGES = ("docs/algorithms.md", "docs/rewards.md")
OVERRIDES = [block for page in PAGES for block in blocks(page, "yaml") if "endpoint:" not in block.text]
"""All but those that ask a judge over the network, which ``tests/rewards`` does."""


@pytest.fixture
def with_named_folders(tmp_path, monkeypatch, fit):
    """A current folder with what the pages name: scenes to rehearse, and a reader."""
    monkeypatch.chdir(tmp_path)
    write_synthetic(tmp_path / "data/synthetic", num_train=24, num_val=128, num_test=300, progress=False)
    shutil.copytree(fit("study/reader"), tmp_path / "logs/study_reader/version_0")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("block", OVERRIDES, ids=[f"{block.page}-{i}" for i, block in enumerate(OVERRIDES)])
def test_a_fit_with_the_override_ends(block, with_named_folders, fit):
    (with_named_folders / "mine.yaml").write_text(block.text)
    run = fit("rloo", "--config", with_named_folders / "mine.yaml")
    assert (run / "model/model.safetensors").is_file()


def test_one_block_is_left_out():
    assert len(OVERRIDES) == sum(len(blocks(page, "yaml")) for page in PAGES) - 1 > 5
