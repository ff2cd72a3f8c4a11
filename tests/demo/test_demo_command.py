"""``lvad demo`` on the command line."""

import socket

import pytest

from lvad.cli import main
from lvad.demo import command


def test_it_is_named_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "starlette" else object())
    assert main(["demo", "embedded/vlm"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "lvad: error: lvad demo needs starlette: pip install starlette"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["a", "b", "c"], "shows one run or two side by side, got 3"),
        (["a", "--max_mb", "0"], "--max_mb must be positive, got 0.0"),
        (["nowhere/at/all", "--port", "0"], "no model folder at 'nowhere/at/all'"),
        (["a", "--port", "99999"], "cannot listen on 127.0.0.1, port 99999"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(args, message, capsys):
    assert main(["demo", *args]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("lvad: error: ")
    assert message in line


def test_a_port_that_is_taken_is_named_before_a_model_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["demo", "nowhere/at/all", "--port", str(port)]) == 1
    assert f"cannot listen on 127.0.0.1, port {port}" in capsys.readouterr().err


def test_it_listens_on_this_machine_alone():
    config = command.make_parser().parse_args(["a"])
    assert (config.host, config.port) == ("127.0.0.1", 7860)
