"""Client of OpenAI-compatible chat servers: parallel requests, retries, and a cache of replies on disk.

The requests go through httpx2, which huggingface_hub brings, and not through the ``openai`` package. That package adds
headers from the environment (organisation, project, ``OPENAI_CUSTOM_HEADERS``) and a description of the machine, draws
the pauses of its retries from the global random stream, and reads error responses of any size.
"""

import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

from lvad.errors import ChatError
from lvad.rewards.chat_replies import REMEDY_UP, ReplyCache, parse_reply, parse_response, response_error

BACKOFF_S: Final = 0.5
"""Pause before the first retry; it doubles with each."""
MAX_BACKOFF_S: Final = 30.0
MAX_REPLY_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server and one of its models.

    Args:
        url: the base address, such as http://localhost:8000/v1; ``/chat/completions`` is appended.
        model: name of the model on the server.
        api_key_env: the environment variable that holds the key, read when a request is made; None sends no key.
        timeout_s: the time that one request may take.
        retries: how often a request is repeated after the first; after timeouts, lost connections, HTTP 408, 409, 429
            and 5xx, and replies that cannot be read.
        concurrency: number of parallel requests.
        temperature: 0 for the likeliest reply; None leaves it to the server (some models refuse any).
        max_tokens: the most tokens of a reply, with the thoughts of a reasoning model; None leaves it to the server.

    Raises:
        ValueError: naming the value that is out of range, or an url that is no plain http(s) address.
    """

    url: str
    model: str
    api_key_env: str | None = None
    timeout_s: float = 60.0
    retries: int = 4
    concurrency: int = 8
    temperature: float | None = 0.0
    max_tokens: int | None = 512

    def __post_init__(self) -> None:
        # The message shows nothing of the url: it may hold a password.
        if not _is_plain(self.url):
            raise ValueError(
                "endpoint.url must be http(s)://host/path without user, password and query: a key goes into the "
                "environment variable that endpoint.api_key_env names"
            )
        temperature, max_tokens = self.temperature, self.max_tokens
        for name, is_fine, allowed in (
            ("model", bool(self.model.strip()), "a name"),
            ("timeout_s", 0 < self.timeout_s < math.inf, "> 0 and finite"),
            ("retries", self.retries >= 0, ">= 0"),
            ("concurrency", self.concurrency >= 1, ">= 1"),
            ("temperature", temperature is None or 0 <= temperature < math.inf, ">= 0, or null to leave it out"),
            ("max_tokens", max_tokens is None or max_tokens >= 1, ">= 1, or null to leave it out"),
        ):
            if not is_fine:
                raise ValueError(f"endpoint.{name} must be {allowed}, got {getattr(self, name)!r}")


class ChatClient:
    """Client of one chat model. Every prompt is a conversation of its own; many are asked in parallel.

    Args:
        endpoint: server and model.
        cache_folder: folder of the ``ReplyCache``; None caches nothing.
    """

    def __init__(self, endpoint: Endpoint, cache_folder: str | None = None) -> None:
        self.endpoint = endpoint
        self.cache = None if cache_folder is None else ReplyCache(Path(cache_folder).expanduser())
        # Not the global generator: threads would take numbers from the run's seeded stream in any order, and equally
        # seeded ranks would come back to a crowded server at the same moment.
        self._random = random.Random()

    def ask(
        self, prompts: Sequence[str], read: Callable[[str], float], is_patient: bool = False
    ) -> dict[str, float | ChatError]:
        """Ask each different prompt once.

        Args:
            prompts: one user message each.
            read: function from a reply to its score; it raises ValueError for a reply without one, which is asked for
                again.
            is_patient: continue with the other prompts after one has failed.

        Returns:
            By prompt the score of its reply, or the error. Prompts that were not asked because another had failed are
            left out.

        Raises:
            OSError: if the cache cannot be read or written.
        """
        found: dict[str, float | ChatError] = {}
        for prompt in dict.fromkeys(prompts):
            kept = self.cache.get(self._request(prompt)) if self.cache else None
            if kept is not None:
                # Only what could be read is kept; another reader may find no meaning in it.
                with suppress(ValueError):
                    found[prompt] = read(kept)
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in found]
        return found | self._ask_server(missing, read, is_patient) if missing else found

    def _ask_server(
        self, prompts: list[str], read: Callable[[str], float], is_patient: bool
    ) -> dict[str, float | ChatError]:
        try:
            key = self._key()
        except ChatError as error:
            return dict.fromkeys(prompts, error)
        found: dict[str, float | ChatError] = {}
        stop = threading.Event()
        # Redirects are not followed: the next host has no right to the key, nor the answer of another server a say.
        client = httpx2.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=self.endpoint.timeout_s,
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=self.endpoint.concurrency),
        )
        with client, ThreadPoolExecutor(self.endpoint.concurrency) as pool:
            futures = {pool.submit(self._ask_one, client, key, prompt, read, stop): prompt for prompt in prompts}
            try:
                for future in as_completed(futures):
                    found[futures[future]] = outcome = future.result()
                    if isinstance(outcome, ChatError) and not (is_patient and outcome.then != "stop"):
                        break
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
        return found

    def _key(self) -> str | None:
        name = self.endpoint.api_key_env
        if name is None:
            return None
        key = os.environ.get(name, "").strip()
        remedy = f"export {name}, or set endpoint.api_key_env to null for a server without keys"
        if not key:
            raise ChatError(f"the environment variable {name} holds no key", remedy, "stop")
        if not re.fullmatch(r"[!-~]+", key):
            raise ChatError(f"the key in {name} has characters that no header may have", remedy, "stop")
        return key

    def _ask_one(
        self, client: httpx2.Client, key: str | None, prompt: str, read: Callable[[str], float], stop: threading.Event
    ) -> float | ChatError:
        attempt = 0
        while True:
            try:
                reply = parse_response(self._post(client, key, prompt))
                value = parse_reply(reply, read)
            except ChatError as error:
                attempt += 1
                is_over = error.then != "retry" or attempt > self.endpoint.retries
                if is_over or stop.wait(self._pause_s(attempt, error.wait_s)):
                    return ChatError(f"{error.cause} (attempts: {attempt})", error.remedy, error.then)
            else:
                if self.cache:
                    self.cache.put(self._request(prompt), reply)
                return value

    def _pause_s(self, attempt: int, wait_s: float | None) -> float:
        if wait_s is not None:
            return wait_s + BACKOFF_S * self._random.random()
        return min(MAX_BACKOFF_S, BACKOFF_S * 2 ** min(attempt - 1, 30)) * self._random.uniform(0.5, 1.0)

    def _request(self, prompt: str) -> dict[str, Any]:
        chosen = {"temperature": self.endpoint.temperature, "max_tokens": self.endpoint.max_tokens}
        given = {name: value for name, value in chosen.items() if value is not None}
        return {"model": self.endpoint.model, "messages": [{"role": "user", "content": prompt}], **given}

    def _post(self, client: httpx2.Client, key: str | None, prompt: str) -> str:
        """Post a request and return the body of a good response.

        Raises:
            ChatError: without one.
        """
        late = ChatError(
            f"no complete response within {self.endpoint.timeout_s:g} s",
            "raise endpoint.timeout_s, or lower endpoint.concurrency for a server that queues",
        )
        # The client's own limit is on each read: a server that sends a byte now and then would never reach it.
        deadline, body = time.monotonic() + self.endpoint.timeout_s, bytearray()
        try:
            url = f"{self.endpoint.url.rstrip('/')}/chat/completions"
            with client.stream("POST", url, json=self._request(prompt)) as response:
                for chunk in response.iter_bytes():
                    body += chunk
                    if time.monotonic() > deadline:
                        raise late
                    if len(body) > MAX_REPLY_BYTES:
                        raise ChatError(f"a response of over {MAX_REPLY_BYTES} bytes", "is this a chat server?", "next")
        except httpx2.TimeoutException:
            raise late from None
        except httpx2.HTTPError as error:
            raise ChatError(_hide(f"{type(error).__name__}: {error}", key), REMEDY_UP) from None
        text = _hide(bytes(body).decode(errors="replace"), key)
        if not response.is_success:
            raise response_error(response, text, self.endpoint.api_key_env)
        return text


def _is_plain(address: str) -> bool:
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host) and not (url.userinfo or url.query or url.fragment)


def _hide(text: str, key: str | None) -> str:
    # Shorter ones are stand-ins ("EMPTY") for servers without keys, and would be found in innocent words.
    return text.replace(key, "[key]") if key and len(key) >= 8 else text
