"""The error classes of lvad and their one home."""

import ast
import pickle
from pathlib import Path

import lvad
from lvad import errors
from lvad.errors import DataError, one_line

SOURCES = sorted(Path(lvad.__file__).parent.rglob("*.py"))


def test_every_error_class_is_defined_in_one_module():
    names = {
        node.name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id.endswith(("Error", "Exception")) for base in node.bases)
    }
    assert "DataError" in names
    assert names == {name for name in names if hasattr(errors, name)}


def test_an_error_is_rebuilt_from_its_message():
    error = DataError.at("scenes.jsonl", "line 2", "id is missing", "write one")
    assert str(pickle.loads(pickle.dumps(error))) == "scenes.jsonl, line 2: id is missing; write one"


def test_a_message_is_one_printable_line_of_bearable_length():
    assert str(DataError("a\nb\x1bc")) == "a b\\x1bc"
    long = one_line("a" * 1500 + "b" * 1500)
    assert len(long) < 2000
    assert long.startswith("aaa")
    assert long.endswith("bbb")
