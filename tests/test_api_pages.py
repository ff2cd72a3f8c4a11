"""docs/api.md and docs/demo.md name what exists, and docs/api.ipynb shows what its cells print."""

import ast
import re
import shutil
from pathlib import Path

import av
import nbformat
import notebook_page
import numpy as np
import pytest
from nbclient import NotebookClient
from pages import blocks
from PIL import Image

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


def test_the_page_of_the_notebook_is_that_of_its_file():
    text, pictures = notebook_page.page()
    assert notebook_page.PAGE.read_text() == text, "run python tools/notebook_page.py"
    assert [path.name for path in sorted((ROOT / "docs").glob("api_notebook_*"))] == list(pictures)
    for name, picture in pictures.items():
        assert (ROOT / "docs" / name).read_bytes() == picture


def commented_values(code):
    """The expressions of a code whose comment shows a value, with that comment."""
    lines = code.splitlines()
    for node in ast.parse(code).body:
        comment = lines[node.end_lineno - 1].partition("  # ")[2]
        if isinstance(node, ast.Expr) and comment[:1] in SHOWN:
            yield ast.unparse(node), comment


SHOWN = {"'": str, "[": list, "(": tuple, "{": dict}
"""What a value is that is shown so."""


@pytest.fixture
def with_runs(tmp_path, monkeypatch, fit, lora_run):
    """A folder with the runs, pictures and video that the page names."""
    monkeypatch.chdir(tmp_path)
    for name, run in (("rloo", lora_run), ("action_sft", fit("action_sft"))):
        shutil.copytree(run, tmp_path / f"logs/{name}/version_0")
    picture = Image.new("RGB", (64, 48), "grey")
    for name in ("street", "frame_1", "frame_2"):
        picture.save(f"{name}.jpg")
    with av.open("drive.mp4", "w") as video:
        stream = video.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(15):
            video.mux(stream.encode(av.VideoFrame.from_image(picture)))
        video.mux(stream.encode())
    return tmp_path


@pytest.mark.slow
def test_the_code_of_the_page_runs_and_gives_what_its_comments_show(with_runs):
    names = {"scene_1": "street.jpg", "scene_2": [np.zeros((48, 64, 3), np.uint8)] * 2}
    num_compared = 0
    for block in blocks("docs/api.md", "python"):
        exec(block.text, names)
        for expression, comment in commented_values(block.text):
            value = eval(expression, names)
            assert type(value) is SHOWN[comment[0]], expression
            if shown := re.match(r"\[(\w+)\(", comment):
                assert type(value[0]).__name__ == shown[1]
            num_compared += 1
    assert num_compared >= 5


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
