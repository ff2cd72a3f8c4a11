"""The server of the demo's page: a form, and the answers of each run to what was uploaded."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from jinja2 import FileSystemLoader
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from lvad.api import Predictor
from lvad.api.scenes import Frames
from lvad.commands.error_messages import is_user_error
from lvad.demo.uploads import Limits, frame_files, receive_upload, without_folder
from lvad.demo.views import PageInputs, build_view
from lvad.errors import DataError, one_line
from lvad.report.html_pages import STYLE, content_hash, inline_frames, make_template_environment

MAX_COMPLETIONS: Final = 16
MAX_TEMPERATURE: Final = 5.0
_MAX_TEXT_CHARS: Final = 1000
_THUMBNAIL_PX: Final = 160
_NUM_EXAMPLES: Final = 4
_HERE: Final = Path(__file__).parent


class PageContent(NamedTuple):
    """The content of one answer page."""

    asked: PageInputs = PageInputs()
    frames: tuple[Any, ...] = ()
    views: tuple[Any, ...] = ()
    error: str = ""


class Demo:
    """Answers the requests of the page with the predictions of the loaded runs.

    Args:
        predictors: one or two, asked about the same frames.
        limits: of an upload.
    """

    def __init__(self, predictors: Sequence[Predictor], limits: Limits) -> None:
        self.predictors, self.limits = predictors, limits
        self.examples = predictors[0].examples(_NUM_EXAMPLES)
        self._thumbnails = [next(inline_frames(_tensor(example)[-1:], _THUMBNAIL_PX)) for example in self.examples]
        self._lock = threading.Lock()  # a policy answers one question at a time
        self._template = make_template_environment(FileSystemLoader(_HERE)).get_template("page.html.jinja")
        self._style = STYLE + (_HERE / "demo.css").read_text(encoding="utf-8")
        self._script = (_HERE / "demo.js").read_text(encoding="utf-8")

    async def page(self, request: Request) -> HTMLResponse:
        """Answer with the empty form."""
        return self._response(PageContent(), 200)

    async def ask(self, request: Request) -> HTMLResponse:
        """Answer with the form and the runs' views, or with the line that says what is wrong with the upload."""
        asked = PageInputs()
        try:
            async with receive_upload(request, self.limits) as (form, folder):
                try:
                    asked = _page_inputs(form)
                    return self._response(await run_in_threadpool(self._build_page, form, folder, asked), 200)
                except Exception as error:
                    if not is_user_error(error):
                        raise  # a fault of lvad's: the server prints where, and answers 500
                    return self._response(PageContent(asked, error=without_folder(one_line(str(error)), folder)), 422)
        except DataError as error:
            return self._response(PageContent(asked, error=str(error)), 413)

    def _build_page(self, form: FormData, folder: Path, asked: PageInputs) -> PageContent:
        with self._lock:
            frames = self._frames(form, folder)
            seen = self.predictors[0].frames(frames)
            views = tuple(build_view(predictor, frames, asked) for predictor in self.predictors)
        return PageContent(asked, tuple(inline_frames(seen)), views)

    def _frames(self, form: FormData, folder: Path) -> Frames:
        example = form.get("example")
        if example is None:
            return frame_files(folder, self.predictors[0].loader.fps, self.limits)
        number = _number(example, "example", 0, len(self.examples) - 1)
        return self.examples[int(number)]

    def _response(self, shown: PageContent, status: int) -> HTMLResponse:
        policy = (
            f"default-src 'none'; img-src data:; style-src {content_hash(self._style)}; form-action 'self'; "
            f"script-src {content_hash(self._script)}; frame-ancestors 'none'; base-uri 'none'"
        )
        text = self._template.render(
            shown=shown,
            runs=[(p.name, p.kind, ", ".join(p.abilities)) for p in self.predictors],
            thumbnails=self._thumbnails,
            limits=self.limits,
            max_completions=MAX_COMPLETIONS,
            max_temperature=MAX_TEMPERATURE,
            max_chars=_MAX_TEXT_CHARS,
            style=self._style,
            script=self._script,
        )
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(text.encode("utf-8", "xmlcharrefreplace"), status, headers)


def make_app(demo: Demo, hosts: Sequence[str]) -> Starlette:
    """Make the web application.

    Args:
        demo: the runs.
        hosts: names under which the page may be opened; a page of another name that leads here is refused.
    """
    routes = [Route("/", demo.page, methods=["GET"]), Route("/", demo.ask, methods=["POST"])]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[*hosts])])


def _page_inputs(form: FormData) -> PageInputs:
    """Read the fields of the form, and refuse values out of bounds."""
    text, given = form.get("text", ""), form.get("temperature", "")
    if not isinstance(text, str) or len(text) > _MAX_TEXT_CHARS:
        raise DataError(f"a text to score has at most {_MAX_TEXT_CHARS} characters; shorten it")
    temperature = None if given == "" else _number(given, "temperature", 0.01, MAX_TEMPERATURE)
    count = _number(form.get("num_completions", "0"), "the number of samples", 0, MAX_COMPLETIONS)
    return PageInputs(int(count), temperature, " ".join(text.split()))


def _number(given: object, name: str, least: float, most: float) -> float:
    try:
        value = float(given) if isinstance(given, str) else float("nan")
    except ValueError:
        value = float("nan")
    if not least <= value <= most:  # not a number is refused too
        raise DataError(f"{name} must be a number from {least:g} to {most:g}, got {given!r:.40}; correct it")
    return value


def _tensor(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2)
