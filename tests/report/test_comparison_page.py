"""``comparison.html``: one page that needs nothing else, harmless whatever the runs are called, shown by a browser."""

import base64
import io
import re
import shutil
import subprocess

import numpy as np
import pytest
from parsed_page import HOSTILE, Page
from PIL import Image

from lvad.report.comparison_page import write_comparison_page
from lvad.report.plot_style import BLUE, new_figure
from lvad.types import Table

TABLES = [
    Table(
        "Actions, %", ("", "labels", "macro-F1"), (("mine ", "108", "50.0 (40.0 to 60.0)"), ("other", "108", "25.0"))
    ),
    Table("Differences", ("score", "- other"), (("action_macro_f1", "+25.0 *"),)),
]


def bars():
    figure = new_figure(6, 3)
    figure.add_subplot().bar([0, 1], [1, 1], width=1.0, color=BLUE)
    return figure


def write(tmp_path, names=("mine", "other"), tables=TABLES, figure=None):
    return write_comparison_page(tmp_path / "out", names, tables, "Labels are equal.", figure)


def test_every_cell_of_every_table_is_on_the_page(tmp_path):
    page = Page(write(tmp_path).read_text())
    words = [word.strip() for word in page.words if word.strip()]
    cells = [cell.strip() for table in TABLES for row in (table.columns, *table.rows) for cell in row if cell]
    assert [word for word in words if word in cells] == cells
    assert len(page.all("table")) == 2
    assert [item["scope"] for item in page.all("th")] == ["col"] * 3 + ["row"] * 2 + ["col"] * 2 + ["row"]
    assert "Labels are equal." in words
    assert page.all("img") == []


def test_the_page_needs_no_other_file_and_runs_no_script(tmp_path):
    text = write(tmp_path, figure=bars()).read_text()
    page = Page(text)
    assert not re.search(r"https?://|@import|url\(", text)
    assert not page.all("link")
    assert not page.all("script")
    (image,) = page.all("img")
    picture = Image.open(io.BytesIO(base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))))
    assert (picture.width, picture.height) == (int(image["width"]), int(image["height"])) == (720, 360)
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert re.fullmatch(r"default-src 'none'; img-src data:; style-src 'sha256-[\w+/]+='", policy)


def test_no_name_becomes_part_of_the_page(tmp_path):
    hostile = [Table(HOSTILE, ("", HOSTILE), ((HOSTILE, HOSTILE),))]
    page = Page(write(tmp_path, [HOSTILE, "</title>"], hostile, bars()).read_text())
    assert not page.all("script")
    assert len(page.all("img")) == 1
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "".join(page.words).count(HOSTILE) == 6  # title, heading, and four in the table


def test_a_browser_shows_its_figure_and_its_style(tmp_path):
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium to open the page in")
    path = write(tmp_path, figure=bars())
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=900,900"]
    places = [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}"]
    subprocess.run([found, *options, *places, path.as_uri()], capture_output=True, timeout=120, check=True)
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    assert (np.abs(pixels - (0, 92, 171)).max(-1) < 10).mean() > 0.1  # the bars
    assert (pixels[-1, -1] == (244, 245, 247)).all()  # --paper of page.css
