"""Files stay under 300 lines and functions under 40, so that each holds one idea."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for room in ("lvad", "tests", "benchmarks", "tools", "examples") for path in (ROOT / room).rglob("*.py")]


def test_files_are_short():
    assert not {str(path) for path in FILES if len(path.read_text().splitlines()) >= 300}


@pytest.mark.parametrize("room", ["lvad", "examples"])
def test_functions_are_short(room):
    functions = [
        (path.name, node.name, node.end_lineno - node.lineno + 1)
        for path in FILES
        if path.is_relative_to(ROOT / room)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    ]
    assert functions
    assert not [function for function in functions if function[2] >= 40]
