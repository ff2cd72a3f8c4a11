"""The gallery: one page that needs nothing else, harmless whatever was said, looked at in a browser."""

import base64
import io
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from answered import FORWARD, NO_REASON, REASON, STOP, scene
from parsed_page import HOSTILE, Page
from PIL import Image

from lvad.report.gallery import tags, write_gallery


def frames(*counts):
    return [torch.full((m, 3, 90, 160), 40 * (i + 1), dtype=torch.uint8) for i, m in enumerate(counts)]


def said_and_missed():
    """Stop said and true; "f_follow_traffic" said and true, the next one said only, the third missed."""
    said, true = (1, 1, *[0] * 19), (1, 0, 1, *[0] * 18)
    return scene("mixed", STOP, STOP, said, true)


def write(tmp_path, scenes, pictures):
    return write_gallery(tmp_path / "gallery.html", scenes, pictures, "a title", {"test/score": 0.5})


def test_explanations_are_marked_by_what_they_are(tmp_path):
    page = Page(write(tmp_path, [said_and_missed()], frames(1)).read_text())
    kinds = [item["class"] for item in page.all("li")]
    assert kinds[:4] == ["TN", "said TP", "TN", "TN"]
    assert kinds[4:] == ["TP", "FP", "FN"]


def test_arrows_are_filled_where_the_action_is_said(tmp_path):
    page = Page(write(tmp_path, [scene("a", (1, 0, 1, 0), (0, 0, 1, 1))], frames(1)).read_text())
    assert [item["class"] for item in page.all("li")[:4]] == ["said FP", "TN", "said TP", "FN"]
    assert len(page.all("polygon")) == 4


def test_the_page_needs_no_other_file(tmp_path):
    text = write(tmp_path, [scene("a", STOP, STOP), scene("b", STOP, FORWARD)], frames(2, 1)).read_text()
    page = Page(text)
    assert not re.search(r"https?://|@import|url\(", text)
    assert not page.all("link")
    images = page.all("img")
    assert len(images) == 3
    for image in images:
        picture = Image.open(io.BytesIO(base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"))))
        assert (picture.width, picture.height) == (int(image["width"]), int(image["height"])) == (160, 90)


def test_four_frames_stand_two_by_two(tmp_path):
    page = Page(write(tmp_path, [scene(str(m), STOP, STOP) for m in (1, 4, 8)], frames(1, 4, 8)).read_text())
    assert [part["class"] for part in page.all("div")] == ["frames", "frames four", "frames"]


def test_nothing_that_was_said_becomes_part_of_the_page(tmp_path):
    hostile = scene(HOSTILE, STOP, STOP, text=HOSTILE, description=f"</p>{HOSTILE}\ud800", is_valid=False)
    page = Page(write(tmp_path, [hostile], frames(1)).read_text())
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 1
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "".join(page.words).count(HOSTILE) == 3
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")


def test_a_scene_is_found_under_what_is_wrong_with_it():
    assert tags(scene("a", STOP, STOP, REASON)) == []
    assert tags(scene("a", STOP, FORWARD, REASON)) == ["wrong-actions"]
    assert tags(scene("a", STOP, STOP, NO_REASON, is_valid=False)) == ["wrong-reasons", "parse-failures"]
    assert tags(scene("a", STOP, None, true_reasons=None)) == []


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = write(tmp_path, [scene("old", STOP, STOP)], frames(1))
    with pytest.raises(ValueError, match="frames must be uint8"):
        write(tmp_path, [scene("new", STOP, STOP)], [torch.zeros(1, 3, 4, 4)])
    with pytest.raises(ValueError, match="longer than"):
        write(tmp_path, [scene("new", STOP, STOP)], frames(1, 1))
    assert "old" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium to open the page in")
    return [found, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]


def open_page(browser, address, *options):
    # A profile of its own, and a limit: a browser that hangs must not hang the tests.
    return subprocess.run([*browser, *options, address], capture_output=True, text=True, timeout=120, check=True)


def test_a_browser_shows_it(tmp_path, browser):
    """Green arrow and explanation, red and grey ones, the frames' own colour, on a page of the size asked for."""
    picture = torch.zeros(1, 3, 90, 160, dtype=torch.uint8)
    picture[:, 2] = 255  # blue, which nothing else on the page is
    path = write(tmp_path, [said_and_missed()], [picture])
    options = [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=900,700"]
    open_page(browser, path.as_uri(), *options, f"--screenshot={tmp_path / 'page.png'}")
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    assert pixels.shape == (700, 900, 3)

    def share(red, green, blue):
        return (np.abs(pixels - (red, green, blue)).max(-1) < 40).mean()

    assert share(0, 122, 61) > 1e-3  # --good
    assert share(190, 30, 45) > 2e-4  # --bad
    assert share(105, 110, 118) > 2e-4  # --missed
    assert share(0, 0, 255) > 0.02


def test_a_browser_runs_its_filters_and_nothing_else(tmp_path, browser):
    scenes = [scene(HOSTILE, STOP, STOP, REASON), scene("wrong", STOP, FORWARD, REASON)]
    path = write(tmp_path, scenes, frames(1, 1))
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    page = Page(open_page(browser, f"{path.as_uri()}#wrong-actions", profile, "--dump-dom").stdout)
    cards = page.all("article")
    assert [("hidden" in card) for card in cards] == [True, False]
    labels = [word.strip() for word in page.words if re.fullmatch(r"[a-z ]+ \(\d\)", word.strip())]
    assert labels == ["all (2)", "wrong actions (1)", "wrong reasons (0)", "parse failures (0)"]
    assert len(page.all("img")) == 2
