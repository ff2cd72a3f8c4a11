"""docs/evaluation.md has every score that a run logs under a fixed name."""

import ast
import re

from pages import ROOT, text_of

GROUPS = "train|reward|rollout|advantage|critic|rehearsal|time|memory|fixmatch|val"
KEY = re.compile(rf"(?:{GROUPS})/[a-z0-9_]+")


def test_every_logged_key_is_on_the_page():
    trees = [ast.parse(path.read_text()) for path in (ROOT / "lvad").rglob("*.py")]
    strings = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    keys = {value for value in strings if isinstance(value, str) and KEY.fullmatch(value)}
    assert len(keys) > 25
    page = text_of("docs/evaluation.md")
    assert not [key for key in sorted(keys) if f"`{key}`" not in page and f"`{key.removeprefix('val/')}`" not in page]


def test_every_row_says_more_than_its_name():
    rows = re.findall(r"^\| (`.+?) \| (.*) \|$", text_of("docs/evaluation.md"), re.M)
    assert len(rows) > 35
    assert all(len(meaning) > 10 for _, meaning in rows)
