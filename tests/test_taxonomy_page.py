"""The label set that docs/taxonomy.md shows is one."""

import re
from pathlib import Path

from lvad.data.pairs import mirrored_candidates
from lvad.taxonomy import load_taxonomy
from lvad.taxonomy.label_set import MAX_ACTIONS, SYMBOLS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/taxonomy.md").read_text()


def test_the_shown_label_set_is_read(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (tmp_path / "mine.yaml").write_text(block)
    found = load_taxonomy(str(tmp_path / "mine.yaml"))
    assert found.action_names == ("wait", "go left", "go right")
    assert found.question == "wait, drive to the left, drive to the right"
    assert mirrored_candidates("reason", found) == (0, 1, 3, 2, 5, 4)
    assert mirrored_candidates("output", found)[6 + 2] == 12 + 3  # go left for the left bay: go right for the right one
    assert found.contradictions[0].against == (found.reason_index["left_wall"],)


def test_the_symbols_and_the_bound_are_named():
    assert all(f"`{symbol}`" in PAGE for symbol in SYMBOLS)
    assert f"At most {MAX_ACTIONS} actions" in PAGE
