"""The plan of docs/footage.md is what its script computes."""

import itertools
from pathlib import Path

import footage_plan as plan
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/footage.md").read_text()


@pytest.mark.parametrize("table", plan.TABLES, ids=lambda table: table.__name__)
def test_every_table_is_the_script_s(table):
    assert table() in PAGE


def test_the_shapes_are_those_of_the_published_models():
    """Weights in products: the text model's 134,588,736 less its embeddings and norms; the tower's 12 layers."""
    norms = 576 * 61
    assert plan.TEXT == 134_588_736 - plan.HEAD - norms
    assert plan.TOWER == 12 * 7_077_888


def test_the_cost_of_a_tile_by_hand():
    """2 x 85.5 M weights x 1,024 patches, 2 x 2 x 1,024^2 x 768 per layer of attention, the connector on 64 tokens."""
    assert plan.TILE == pytest.approx(175.16e9 + 38.65e9 + 0.91e9, rel=1e-4)


def test_more_completions_at_once_are_faster_until_the_memory_is_the_limit():
    setting = plan.SETTINGS[1]
    times = [plan.decode_s(setting, batch, plan.STEP_GRAPH_S) for batch in (1, 8, 64, 512, 4096)]
    assert all(a >= b for a, b in itertools.pairwise(times))
    assert times[0] == pytest.approx(40 * 4.8e-3)
