"""A chat client against a real server on this machine that does everything wrong."""

import random
import socket
import threading
import time

import pytest
from chat_server import ask, completion, drips, drops, failure, fast, running, says, slow, status  # noqa: F401

from lvad.errors import ChatError
from lvad.rewards import chat as chat_module
from lvad.rewards.chat import ChatClient, Endpoint

pytestmark = pytest.mark.usefixtures("fast")


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
        (error,) = ChatClient(endpoint).ask(["one"], float).values()
    assert "ConnectError" in str(error)
    assert "see that the server is up" in str(error)


def test_pauses_grow_and_differ(monkeypatch):
    monkeypatch.setattr(chat_module, "BACKOFF_S", 0.5)
    chat = ChatClient(Endpoint("http://x/v1", "judge"))
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
