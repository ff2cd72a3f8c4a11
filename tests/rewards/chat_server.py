"""A chat server on this machine that does everything wrong, by script."""

import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lvad.errors import ChatError
from lvad.rewards import chat as chat_module
from lvad.rewards.chat import ChatClient, Endpoint

KEY = "sk-secret-0123456789"


class Server(ThreadingHTTPServer):
    """Answers by script: one behaviour per request, the last one for ever."""

    daemon_threads = True

    def __init__(self, *script) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.lock = list(script), threading.Lock()
        self.requests, self.headers, self.paths, self.times = [], [], [], []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.times.append(time.monotonic())
            self.server.requests.append(body)
            self.server.headers.append(dict(self.headers))
            self.server.paths.append(self.path)
            script = self.server.script
            behave = script.pop(0) if len(script) > 1 else script[0]
        behave(self)

    def log_message(self, *args) -> None:
        """Quiet."""


def status(code, body="", **headers):
    def behave(handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body.encode())))
        handler.end_headers()
        handler.wfile.write(body.encode())

    return behave


def completion(content, finish_reason="stop"):
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
    return json.dumps({"object": "chat.completion", "choices": [choice]})


def says(content, **how):
    return status(200, completion(content, **how))


def slow(seconds, then):
    def behave(handler) -> None:
        time.sleep(seconds)
        then(handler)

    return behave


def drips(handler) -> None:
    """A byte now and then, each well within the time of a read."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def drops(handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def running(*script):
    server = Server(*script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(chat_module, "BACKOFF_S", 0.001)
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def ask(server, *prompts, cache=None, is_patient=False, **settings):
    chat = ChatClient(Endpoint(server.url, "judge", **{"timeout_s": 5.0, "retries": 2} | settings), cache)
    return chat.ask(prompts or ["one"], float, is_patient)


def failure(server, **settings) -> ChatError:
    (error,) = ask(server, **settings).values()
    assert isinstance(error, ChatError)
    return error
