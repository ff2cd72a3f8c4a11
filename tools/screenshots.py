"""Take the pictures of ``docs/demo.md`` again, from two finished runs, in Chromium.

python tools/screenshots.py logs/rloo/version_0 logs/two_stage/version_0
"""

import argparse
import io
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from PIL import Image
from playwright.sync_api import sync_playwright

import lvad
from lvad.api import Predictor
from lvad.demo.app import Demo, make_app
from lvad.demo.uploads import Limits

TEXT = "The road is clear."
HOST = "127.0.0.1"


@contextmanager
def served(runs: Sequence[Predictor]) -> Iterator[str]:
    """Serve the demo's page of these runs for the time of a block, and give its address."""
    server = uvicorn.Server(uvicorn.Config(make_app(Demo(runs, Limits()), [HOST]), HOST, 0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://{HOST}:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


def take(address: str, path: Path, width_px: int) -> None:
    """Ask the page about its first example and one text, and save all of the page as a picture of 256 colours."""
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width_px, "height": 900})
        page.goto(address)
        page.fill("input[name=text]", TEXT)
        with page.expect_navigation(timeout=120_000):
            page.click("button[name=example] >> nth=0")
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        browser.close()
    picture.quantize(256).save(path, optimize=True)


def main() -> None:
    """Save ``demo.png``, the second run alone, and ``demo_two_runs.png``, both side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs=2, help="a run of RLOOPolicy, and one of ActionSFT after descriptions")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the pictures")
    given = parser.parse_args()
    first, second = map(lvad.load, given.runs)
    for runs, name, width_px in (([second], "demo.png", 1000), ([first, second], "demo_two_runs.png", 1280)):
        with served(runs) as address:
            take(address, given.out / name, width_px)


if __name__ == "__main__":
    main()
