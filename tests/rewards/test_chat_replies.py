"""What a chat server is told and what it says: keys, addresses, times to wait, and replies on disk."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from chat_server import KEY, ask, completion, failure, fast, running, says, status  # noqa: F401

from lvad.rewards.chat import Endpoint
from lvad.rewards.chat_replies import parse_response, shorten

pytestmark = pytest.mark.usefixtures("fast")


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_server_that_asks_to_wait_is_given_its_time(form):
    # A date has whole seconds: two ahead are at least one.
    later = "1" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=2.2), usegmt=True)
    with running(status(429, Retry_After=later), says("1")) as server:
        assert ask(server) == {"one": 1.0}
    assert 1.0 <= server.times[1] - server.times[0] < 3


@pytest.mark.parametrize("header", ["soon", "-5", "nan", "", "0.5\x1c", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_retry_after_without_sense_or_in_the_past_is_no_wait(header):
    with running(status(503, Retry_After=header), says("1")) as server:
        assert ask(server) == {"one": 1.0}
    assert server.times[1] - server.times[0] < 1


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


def test_a_password_in_an_address_is_refused_and_not_repeated():
    for url in (f"http://user:{KEY}@host/v1", f"http://user:{KEY}/x@host/v1"):
        with pytest.raises(ValueError, match=r"endpoint\.url must be") as caught:
            Endpoint(url, "m")
        assert KEY not in str(caught.value)


def test_quotations_are_short_and_printable():
    assert shorten("a\n\x1b[31mb\u202e  c") == "'a [31mb c'"
    assert len(shorten("word " * 10_000, 80)) < 100
    assert parse_response(completion("\ud800")) == "\ud800"
