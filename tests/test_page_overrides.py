"""The YAML of the pages on algorithms and rewards is put on top of the main job and trains."""

import pytest
from pages import blocks

from lvad.data.synthetic import write_synthetic

OVERRIDES = [block for page in ("docs/algorithms.md", "docs/rewards.md") for block in blocks(page, "yaml")]
NEEDS_A_SERVER = "endpoint:"
"""In the blocks that ask a judge over the network, which ``tests/rewards`` does."""


@pytest.fixture
def rehearsed(tmp_path, monkeypatch):
    """A current folder with the scenes that a rehearsal of the pages reads."""
    monkeypatch.chdir(tmp_path)
    write_synthetic(tmp_path / "data/synthetic", num_train=24, num_val=4, num_test=4, progress=False)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("block", OVERRIDES, ids=[f"{block.page}-{i}" for i, block in enumerate(OVERRIDES)])
def test_a_fit_with_the_override_ends(block, rehearsed, fit):
    if NEEDS_A_SERVER in block.text:
        pytest.skip("asks a judge's server")
    (rehearsed / "mine.yaml").write_text(block.text)
    run = fit("rloo", "--config", rehearsed / "mine.yaml")
    assert (run / "model/model.safetensors").is_file()


def test_most_of_the_blocks_are_run():
    assert sum(NEEDS_A_SERVER not in block.text for block in OVERRIDES) >= 6
