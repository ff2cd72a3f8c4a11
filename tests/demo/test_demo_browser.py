"""``lvad demo`` as a visitor meets it: real runs, in a browser."""

import shutil
import threading
import time

import numpy as np
import pytest
import uvicorn
from PIL import Image
from small_fits import LORA

import lvad
from lvad.demo.app import Demo, make_app
from lvad.demo.uploads import Limits

pytestmark = pytest.mark.slow
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def page():
    if CHROMIUM is None:
        pytest.skip("no Chromium to open the page in")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        opened.set_default_timeout(120_000)
        yield opened
        browser.close()


@pytest.fixture(scope="module")
def serve():
    """Serves runs; returns the address."""
    servers = []

    def start(*runs, limits):
        app = make_app(Demo(runs, limits), ["127.0.0.1"])
        server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, log_level="error"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.05)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def two_stage(fit):
    return lvad.load(fit("two_stage", *LORA))


@pytest.fixture(scope="module")
def address(serve, lora_run, two_stage):
    return serve(two_stage, lvad.load(lora_run), limits=Limits(1.0, 4))


@pytest.fixture
def files(tmp_path):
    generator = np.random.default_rng(0)
    for i in range(2):
        pixels = generator.integers(0, 256, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"frame_{i}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "frame_0.png").read_bytes()[:900])
    (tmp_path / "large.png").write_bytes(b"0" * (2**20 + 1))
    return tmp_path


@pytest.fixture
def opened(page, address):
    """The empty page; what its console says is an error of ours."""
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address)
    yield page
    # A refused upload is answered with 413 or 422, which the browser itself reports.
    assert [text for text in said if "Failed to load resource" not in text] == []


def upload(page, *paths):
    page.set_input_files("#frames", [str(path) for path in paths])
    with page.expect_navigation():
        page.click("button[name=run]")


def test_two_runs_see_an_upload_side_by_side(opened, files, two_stage):
    paths = [files / "frame_0.png", files / "frame_1.png"]
    upload(opened, *paths)
    assert opened.locator("article").count() == 2
    boxes = [opened.locator("article").nth(i).bounding_box() for i in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    expected = two_stage.decide(paths)
    first = opened.locator("article").nth(0)
    assert first.locator(".description").inner_text() == expected.description
    words = first.locator(".arrows li").all_inner_texts()
    assert words == [f"{name} {p:.2f}" for name, p in expected.action_probabilities.items()]
    filled = [first.locator(f".arrows li[title='{name}: said']").count() for name in expected.action_probabilities]
    assert filled == [int(name in expected.actions) for name in expected.action_probabilities]
    second = opened.locator("article").nth(1)
    assert second.locator("tbody tr").count() == 4
    assert "does not decide on actions" in second.inner_text()
    assert opened.locator(".seen img").count() == 2
    assert opened.evaluate("[...document.querySelectorAll('.seen img')].every(i => i.naturalWidth === 128)")


def test_a_filled_arrow_is_green(opened, files):
    upload(opened, files / "frame_0.png")
    colours = opened.evaluate(
        "[...document.querySelectorAll('.arrows li')].map(li => [li.className, "
        "getComputedStyle(li.querySelector('polygon')).fill])"
    )
    assert {colour for name, colour in colours if name == "said"} <= {"rgb(0, 122, 61)"}
    assert {colour for name, colour in colours if name != "said"} <= {"none"}


def test_a_broken_file_is_named_on_the_page(opened, files):
    upload(opened, files / "broken.png")
    assert opened.locator("#note").inner_text().startswith("broken.png: image cannot be decoded")
    assert opened.locator("article").count() == 0
    upload(opened, files / "frame_0.png")  # and the next one is answered
    assert opened.locator("article").count() == 2


def test_a_file_that_is_too_large_is_not_sent(opened, files):
    opened.set_input_files("#frames", str(files / "large.png"))
    opened.click("button[name=run]")
    assert "the upload holds 1.0 MB, allowed are 1" in opened.locator("#note").inner_text()
    assert opened.locator("button[name=run]").is_enabled()


def test_a_dropped_file_is_asked_about(opened, files):
    data = (files / "frame_0.png").read_bytes().hex()
    with opened.expect_navigation():
        opened.evaluate(
            """hex => {
              const bytes = Uint8Array.from(hex.match(/../g), pair => parseInt(pair, 16));
              const transfer = new DataTransfer();
              transfer.items.add(new File([bytes], 'dropped.png', {type: 'image/png'}));
              dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}));
            }""",
            data,
        )
    assert opened.locator("article").count() == 2


def test_an_example_is_at_hand(opened):
    with opened.expect_navigation():
        opened.click("button[name=example] >> nth=1")
    assert opened.locator("article").count() == 2
    assert opened.locator(".seen img").count() == 2
