"""A chat client against a real server on this machine that does everything wrong."""

import json
import random
import socket
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lvad.rewards import chat as chat_module
from lvad.rewards.chat import Chat, Endpoint
from lvad.rewards.replies import ChatError, content_of, shorten

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


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(chat_module, "BACKOFF_S", 0.001)
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def ask(server, *prompts, cache=None, is_patient=False, **settings):
    chat = Chat(Endpoint(server.url, "judge", **{"timeout_s": 5.0, "retries": 2} | settings), cache)
    return chat.ask(prompts or ["one"], float, is_patient)


def failure(server, **settings) -> ChatError:
    (error,) = ask(server, **settings).values()
    assert isinstance(error, ChatError)
    return error


def test_a_request_is_what_openai_documents():
    with running(says("0.5")) as server:
        assert ask(server, "one", max_tokens=7) == {"one": 0.5}
    assert server.paths == ["/v1/chat/completions"]
    message = {"role": "user", "content": "one"}
    assert server.requests == [{"model": "judge", "messages": [message], "temperature": 0.0, "max_tokens": 7}]
    assert "Authorization" not in server.headers[0]


def test_settings_that_a_server_refuses_can_be_left_out():
    with running(says("1")) as server:
        ask(server, temperature=None, max_tokens=None)
    assert set(server.requests[0]) == {"model", "messages"}


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        (status(500, "oops"), "HTTP 500, 'oops'"),
        (status(503), "HTTP 503"),
        (status(408), "HTTP 408"),
        (status(409), "HTTP 409"),
        (status(429, Retry_After="0"), "HTTP 429"),
        (drops, "RemoteProtocolError"),
        (slow(0.6, says("1")), "no complete response within 0.3 s"),
        (drips, "no complete response within 0.3 s"),
        (status(200, "{"), "no chat completion: '{'"),
        (status(200, "[" * 100_000), "no chat completion"),
        (status(200, "{}"), "no chat completion: '{}'"),
        (status(200, '{"choices": []}'), "no chat completion"),
        (status(200, '{"choices": [null]}'), "no chat completion"),
        (status(200, '{"choices": "a"}'), "no chat completion"),
        (status(200, '{"choices": [{"message": "a"}]}'), "no chat completion"),
        (says(None), "a reply without text"),
        (says("0", finish_reason="length"), "a reply that was cut: '0'; raise endpoint.max_tokens"),
        (says("garbage"), "reply 'garbage': could not convert string to float"),
    ],
)
def test_what_passes_is_asked_again_and_what_stays_is_named(wrong, cause):
    with running(wrong, says("1")) as server:
        assert ask(server, timeout_s=0.3) == {"one": 1.0}
        assert len(server.requests) == 2
    with running(wrong) as server:
        error = failure(server, timeout_s=0.3)
        assert len(server.requests) == 3
    assert cause.partition(";")[0] in error.cause
    assert cause.partition(";")[2] in str(error)
    assert "(attempts: 3)" in error.cause
    assert error.remedy


@pytest.mark.parametrize(
    ("wrong", "then", "message"),
    [
        (status(400, '{"error": "no such setting"}'), "next", "no such setting"),
        (status(422), "next", "what the server says"),
        (status(403), "next", "HTTP 403"),
        (status(401), "stop", "put a valid key into"),
        (status(404), "stop", "endpoint.url is the base address"),
        (status(429, Retry_After="86400"), "next", "to be asked again in 86400 s"),
        (status(200, " " * (1 << 20) + "{}"), "next", "over 1048576 bytes"),
    ],
)
def test_what_will_not_pass_is_not_asked_again(wrong, then, message):
    with running(wrong) as server:
        error = failure(server)
        assert len(server.requests) == 1
    assert error.then == then
    assert message in str(error)


def test_nobody_there():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = Endpoint(f"http://127.0.0.1:{unused.getsockname()[1]}/v1", "judge", retries=1)
        (error,) = Chat(endpoint).ask(["one"], float).values()
    assert "ConnectError" in str(error)
    assert "see that the server is up" in str(error)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_server_that_asks_to_wait_is_given_its_time(form):
    # A date has whole seconds: two ahead are at least one.
    later = "1" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=2.2), usegmt=True)
    with running(status(429, Retry_After=later), says("1")) as server:
        assert ask(server) == {"one": 1.0}
    assert 1.0 <= server.times[1] - server.times[0] < 3


@pytest.mark.parametrize("header", ["soon", "-5", "nan", "", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_retry_after_without_sense_or_in_the_past_is_no_wait(header):
    with running(status(503, Retry_After=header), says("1")) as server:
        assert ask(server) == {"one": 1.0}
    assert server.times[1] - server.times[0] < 1


def test_pauses_grow_and_differ(monkeypatch):
    monkeypatch.setattr(chat_module, "BACKOFF_S", 0.5)
    chat = Chat(Endpoint("http://x/v1", "judge"))
    # Half to the whole of 0.5, 1, 2, ... up to 30 seconds.
    for attempt, whole in ((1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0), (5000, 30.0)):
        pauses = [chat._pause_s(attempt, None) for _ in range(50)]
        assert all(whole / 2 <= pause <= whole for pause in pauses)
        assert len(set(pauses)) > 10
    assert 7 <= chat._pause_s(1, 7.0) <= 7.5


def test_the_seeded_stream_of_a_run_is_left_alone():
    state = random.getstate()
    with running(status(500), says("1")) as server:
        ask(server)
    assert random.getstate() == state


def test_several_requests_are_under_way_at_once():
    # Nobody is answered before four are there.
    barrier = threading.Barrier(4, timeout=5)

    def behave(handler) -> None:
        barrier.wait()
        says("1")(handler)

    with running(behave) as server:
        assert len(ask(server, *"abcdefgh", concurrency=4)) == 8


def test_never_more_requests_than_allowed():
    now, most, lock = [0], [0], threading.Lock()

    def behave(handler) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        says("1")(handler)

    with running(behave) as server:
        ask(server, *"abcdefgh", concurrency=2)
    assert most[0] == 2


def test_the_same_prompt_is_asked_once():
    with running(says("1")) as server:
        assert ask(server, "a", "b", "a", "a") == {"a": 1.0, "b": 1.0}
    assert sorted(r["messages"][0]["content"] for r in server.requests) == ["a", "b"]


def test_one_failure_ends_the_rest_unless_patience_is_asked_for():
    with running(status(400)) as server:
        assert len(ask(server, *"abcdefgh", concurrency=1)) < 8
    with running(status(400), says("1")) as server:
        found = ask(server, *"abcd", concurrency=1, is_patient=True)
        assert sorted(isinstance(value, ChatError) for value in found.values()) == [False, False, False, True]
    # What will not be better for another prompt is not tried.
    with running(status(401)) as server:
        ask(server, *"abcdefgh", concurrency=1, is_patient=True)
        assert len(server.requests) < 8


def test_the_key_goes_to_the_server_and_nowhere_else(monkeypatch, tmp_path):
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\n")
    echo = f"no entry for {KEY} " + "x" * 10
    for wrong in (status(401, echo), status(400, echo), status(200, echo), says(echo), status(500, "." * 150 + KEY)):
        with running(wrong) as server:
            error = failure(server, api_key_env="JUDGE_KEY", retries=0)
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
        assert "sk-" not in str(error)
        assert "sk-" not in repr(error.__dict__)
    with running(says("1")) as server:
        ask(server, api_key_env="JUDGE_KEY", cache=str(tmp_path))
    assert not any(KEY in path.read_text() for path in tmp_path.rglob("*.json"))


def test_a_stand_in_for_a_key_is_no_secret(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "1")
    with running(says("1")) as server:
        assert ask(server, api_key_env="JUDGE_KEY") == {"one": 1.0}


@pytest.mark.parametrize(("value", "message"), [(None, "holds no key"), (" ", "holds no key"), ("a\nb", "characters")])
def test_a_key_that_is_none(monkeypatch, value, message):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value:
        monkeypatch.setenv("JUDGE_KEY", value)
    with running(says("1")) as server:
        error = failure(server, api_key_env="JUDGE_KEY")
        assert not server.requests
    assert message in str(error)
    assert "export JUDGE_KEY" in str(error)
    assert error.then == "stop"


def test_a_redirect_takes_the_key_nowhere(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with running(says("1")) as other, running(status(307, Location=f"{other.url}/chat/completions")) as server:
        error = failure(server, api_key_env="JUDGE_KEY")
        assert not other.requests
    assert "HTTP 307, a redirect; write the final address into endpoint.url" in str(error).replace(" (attempts: 1)", "")


def test_a_reply_is_kept_for_the_same_request_only(tmp_path):
    with running(says("0.5"), says("0.25")) as server:
        assert ask(server, cache=str(tmp_path)) == {"one": 0.5}
        assert ask(server, cache=str(tmp_path)) == {"one": 0.5}
        assert len(server.requests) == 1
        for other in ({"temperature": 0.5}, {"max_tokens": 3}):
            assert ask(server, cache=str(tmp_path), **other) == {"one": 0.25}
        assert ask(server, "two", cache=str(tmp_path)) == {"two": 0.25}
        assert len(server.requests) == 4
    # Neither server nor key is needed for what is known.
    assert ask(server, cache=str(tmp_path), api_key_env="NO_SUCH_KEY", retries=0) == {"one": 0.5}


def test_what_cannot_be_read_is_not_kept(tmp_path):
    with running(says("garbage")) as server:
        failure(server, cache=str(tmp_path))
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"reply": "1"}', b"\xff\xfe", '{"reply": 1, "digest": 1}', "flip"])
def test_a_damaged_file_is_asked_for_again(tmp_path, damage):
    with running(says("0.5")) as server:
        ask(server, cache=str(tmp_path))
        (path,) = tmp_path.rglob("*.json")
        whole = path.read_text()
        damage = whole.replace('"0.5"', '"0.9"') if damage == "flip" else damage
        path.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
        with pytest.warns(UserWarning, match="is damaged: the model is asked again"):
            assert ask(server, cache=str(tmp_path)) == {"one": 0.5}
        assert len(server.requests) == 2
    assert path.read_text() == whole
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with running(says("1")) as server, pytest.raises(OSError, match="file"):
        ask(server, cache=str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "localhost:8000/v1"}, "endpoint.url must be http"),
        ({"url": "ftp://host/v1"}, "endpoint.url must be http"),
        ({"url": "http://host:port/v1"}, "endpoint.url must be http"),
        ({"url": "http://host/v1?key=1"}, "endpoint.url must be http"),
        ({"model": " "}, "endpoint.model must be a name"),
        ({"timeout_s": 0}, "endpoint.timeout_s must be > 0 and finite, got 0"),
        ({"timeout_s": float("nan")}, "endpoint.timeout_s must be"),
        ({"retries": -1}, "endpoint.retries must be >= 0, got -1"),
        ({"concurrency": 0}, "endpoint.concurrency must be >= 1, got 0"),
        ({"temperature": -1.0}, "endpoint.temperature must be >= 0"),
        ({"max_tokens": 0}, "endpoint.max_tokens must be >= 1"),
    ],
)
def test_an_endpoint_that_makes_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        Endpoint(**{"url": "http://host/v1", "model": "m"} | settings)


def test_a_password_in_an_address_is_refused_and_not_repeated():
    for url in (f"http://user:{KEY}@host/v1", f"http://user:{KEY}/x@host/v1"):
        with pytest.raises(ValueError, match="endpoint.url must be") as caught:
            Endpoint(url, "m")
        assert KEY not in str(caught.value)


def test_quotations_are_short_and_printable():
    assert shorten("a\n\x1b[31mb\u202e  c") == "'a [31mb c'"
    assert len(shorten("word " * 10_000, 80)) < 100
    assert content_of(completion("\ud800")) == "\ud800"
