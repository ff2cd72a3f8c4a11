"""Replies of a chat server: parse them, turn refusals into errors, and cache replies on disk."""

import hashlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

import httpx2

from lvad.errors import ChatError

MAX_RETRY_AFTER_S: Final = 300.0
"""A server that asks to wait longer than this counts as unreachable."""
_PASSING: Final = (408, 409, 429)
REMEDY_UP: Final = "see that the server is up, reachable and not overloaded, or raise endpoint.retries"


def response_error(response: httpx2.Response, body: str, api_key_env: str | None) -> ChatError:
    """Make the error for a response that is not successful."""
    status, cause = response.status_code, f"HTTP {response.status_code}, {shorten(body)}"
    if status in _PASSING or status >= 500:
        wait_s = _retry_after_s(response.headers.get("Retry-After", ""))
        if wait_s is not None and wait_s > MAX_RETRY_AFTER_S:
            return ChatError(f"{cause}, to be asked again in {wait_s:.0f} s", "run again later", "next")
        return ChatError(cause, REMEDY_UP, wait_s=wait_s)
    if status < 400:
        return ChatError(f"HTTP {status}, a redirect", "write the final address into endpoint.url", "stop")
    if status == 401:
        where = api_key_env or "a variable, and name that in endpoint.api_key_env"
        return ChatError(cause, f"put a valid key into {where}", "stop")
    if status == 404:
        return ChatError(cause, "see that endpoint.url is the base address (.../v1) and has endpoint.model", "stop")
    return ChatError(cause, "see what the server says: it may not know one of endpoint's settings", "next")


def _retry_after_s(header: str) -> float | None:
    """Parse the seconds of a Retry-After header in either of its two forms; None where it has neither."""
    header = header.strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", header):
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def parse_response(body: str) -> str:
    """Return the text of the one reply in the body of a response.

    Raises:
        ChatError: if it holds no whole reply.
    """
    try:
        (choice,) = json.loads(body)["choices"]
        reply, end = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ChatError(f"no chat completion: {shorten(body)}", "see that endpoint.url is a chat server") from None
    if end == "length":
        # "0" may be the beginning of "0.9".
        raise ChatError(f"a reply that was cut: {shorten(str(reply))}", "raise endpoint.max_tokens", wait_s=0.0)
    if not isinstance(reply, str):
        raise ChatError(f"a reply without text: {shorten(body)}", "see what the server says", wait_s=0.0)
    return reply


def parse_reply(reply: str, read: Callable[[str], float]) -> float:
    """Read the score in a reply with ``read``.

    Raises:
        ChatError: if ``read`` finds no score.
    """
    try:
        return read(reply)
    except ValueError as error:
        remedy = "ask in the prompt for one number, or take a model that follows it"
        raise ChatError(f"reply {shorten(reply)}: {error}", remedy, wait_s=0.0) from None


def shorten(text: str, num_chars: int = 160) -> str:
    """Quote a text for a message: one line of printable characters in quotation marks."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * num_chars]).split())
    return repr(line if len(line) <= num_chars and len(text) <= 4 * num_chars else f"{line[:num_chars]} ...")


class ReplyCache:
    """A cache of replies on disk: one file per request, named by a digest of model, prompt and settings.

    Files are written whole, so ranks and runs may share the folder, but not servers that have other weights under the
    same name.

    Args:
        folder: folder of the files; it is made for the first reply.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, request: dict[str, Any]) -> str | None:
        """Return the cached reply to a request; None where there is none or, with a warning, its file is damaged.

        Raises:
            OSError: if the file cannot be read.
        """
        path = self._path(request)
        if not path.is_file():
            return None
        try:
            kept = json.loads(path.read_bytes())
            if kept["digest"] == _digest(path.stem + kept["reply"]):
                return kept["reply"]
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        warnings.warn(f"{path} is damaged: the model is asked again", stacklevel=2)
        return None

    def put(self, request: dict[str, Any], reply: str) -> None:
        """Write a reply to its file; an earlier one is replaced.

        Raises:
            OSError: if the file cannot be written.
        """
        path = self._path(request)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"request": request, "reply": reply, "digest": _digest(path.stem + reply)}
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            (Path(scratch) / path.name).write_text(json.dumps(kept, indent=1), encoding="utf-8")
            os.replace(Path(scratch) / path.name, path)

    def _path(self, request: dict[str, Any]) -> Path:
        name = _digest(json.dumps(request, sort_keys=True))
        return self.folder / name[:2] / f"{name}.json"


def _digest(text: str) -> str:
    # Escaped by JSON, as a reply may hold half a surrogate pair, which UTF-8 cannot write.
    return hashlib.blake2b(json.dumps(text).encode(), digest_size=16).hexdigest()
