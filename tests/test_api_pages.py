"""docs/api.md and docs/demo.md name what exists, and docs/api.ipynb shows what its cells print."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import lvad
from lvad.demo.command import make_parser

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs/api.ipynb"


def shown(cell):
    """What a code cell shows, without what libraries warn of."""
    outputs = [part for part in cell.outputs if part.get("name") != "stderr"]
    return [part.text if part.output_type == "stream" else part.data["text/plain"] for part in outputs]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
def test_the_notebook_shows_what_its_cells_print(tmp_path):
    committed = nbformat.read(NOTEBOOK, as_version=4)
    run = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(run, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for before, now in zip(code_cells(committed), code_cells(run), strict=True):
        assert shown(now) == shown(before)


def test_the_notebook_is_light_and_names_no_machine():
    text = NOTEBOOK.read_text()
    assert len(text) < 100_000
    assert not re.search(r"/(home|root|tmp|work|usr)/", text)
    assert all(cell.metadata == {} for cell in nbformat.read(NOTEBOOK, as_version=4).cells)


def test_methods_and_entries_of_the_page_exist():
    page = (ROOT / "docs/api.md").read_text()
    blocks = "\n".join(re.findall(r"```python\n(.*?)```", page, re.S))
    ast.parse(blocks)
    for name in re.findall(r"\b(?:run|decider)\.(\w+)", page):
        assert hasattr(lvad.Predictor, name), name
    assert set(re.findall(r"\bsaid\.(\w+)", page)) <= set(lvad.Decision._fields)


def test_the_pages_options_are_the_commands():
    page = (ROOT / "docs/demo.md").read_text()
    rows = dict(re.findall(r"^\| `--(\w+)` \| (.*) \|$", page, re.M))
    parser = make_parser()
    defaults = vars(parser.parse_args(["a"]))
    assert set(rows) == set(defaults) - {"runs"}
    for name in ("host", "port", "max_mb", "max_frames"):
        assert rows[name].startswith(f"{defaults[name]:g}" if name != "host" else defaults[name])
    for picture in re.findall(r"\]\((\w+\.png)\)", page):
        assert (ROOT / "docs" / picture).is_file()
