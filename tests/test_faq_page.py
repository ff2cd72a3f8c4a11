"""Every message that docs/faq.md quotes is one of the program's."""

import ast
import re

import pytest
from pages import ROOT, text_of

QUOTED = re.findall(r"^\| `(.+?)` \|", text_of("docs/faq.md"), re.M)


def template(node):
    """A string of the code with three dots for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@pytest.fixture(scope="module")
def templates():
    trees = [ast.parse(path.read_text()) for path in (ROOT / "lvad").rglob("*.py")]
    return {template(node) for tree in trees for node in ast.walk(tree)}


@pytest.mark.parametrize("message", QUOTED)
def test_a_message_is_in_the_code(message, templates):
    pattern = re.compile(".*?".join(map(re.escape, message.strip(".").split("..."))), re.S)
    assert any(pattern.search(text) for text in templates), message


def test_a_message_that_is_not_there_is_found(templates):
    assert len(QUOTED) > 30
    with pytest.raises(AssertionError):
        test_a_message_is_in_the_code("no such ... message", templates)
