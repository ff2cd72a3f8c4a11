"""What a configuration names outside lvad and its libraries, and where it sends a key."""

import sys
from argparse import ArgumentError

import pytest
from jsonargparse import ArgumentParser

from lvad.commands.global_options import parse_global_options
from lvad.commands.security import api_keys_sent, confirm_api_keys, parse_command_line, with_import_checks
from lvad.errors import DataError
from lvad.types import Reward

GOOD = """
from lvad.types import Batch, Rollouts, Scores
class {name}:
    def score(self, batch: Batch, rollouts: Rollouts) -> Scores: ...
"""


@pytest.fixture(autouse=True)
def _no_flags():
    parse_global_options([])
    yield
    parse_global_options([])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, and the import path as it was afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def parse(class_path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--reward", type=Reward)
    return parser.parse_object({"reward": {"class_path": class_path}})


def test_a_reward_of_the_current_folder_is_said_and_imported(folder, capsys):
    (folder / "mine_a.py").write_text("print('IMPORTED')" + GOOD.format(name="Mine"))
    found = with_import_checks(lambda: parse("mine_a.Mine"))
    assert found.reward.class_path == "mine_a.Mine"
    said = capsys.readouterr()
    assert "asks for mine_a.Mine, which is not of lvad or its libraries" in said.err
    assert "IMPORTED" in said.out


def test_the_name_is_said_before_it_is_imported(folder, capsys):
    (folder / "mine_b.py").write_text("raise SystemExit('imported')")
    with pytest.raises(SystemExit, match="imported"):
        with_import_checks(lambda: parse("mine_b.Mine"))
    assert "mine_b.Mine" in capsys.readouterr().err


def test_safe_imports_nothing_but_what_is_known(folder):
    (folder / "mine_c.py").write_text("raise SystemExit('imported')")
    parse_global_options(["--safe"])
    with pytest.raises(ArgumentError, match=r"asks for mine_c\.Mine, which is refused: --safe imports only lvad, "):
        with_import_checks(lambda: parse("mine_c.Mine"))
    assert str(folder) not in sys.path
    assert with_import_checks(lambda: parse("lvad.rewards.Repetition")).reward.class_path == "lvad.rewards.Repetition"


def test_what_was_let_through_before_is_refused_by_safe_and_let_through_after_it(folder):
    (folder / "mine_e.py").write_text(GOOD.format(name="Mine"))
    with_import_checks(lambda: parse("mine_e.Mine"))
    parse_global_options(["--safe"])
    with pytest.raises(ArgumentError, match=r"asks for mine_e\.Mine, which is refused: --safe imports only lvad, "):
        with_import_checks(lambda: parse("mine_e.Mine"))
    parse_global_options([])
    assert with_import_checks(lambda: parse("mine_e.Mine")).reward.class_path == "mine_e.Mine"


@pytest.mark.parametrize("name", ["os._exit", "subprocess.run", "torch.hub.load", "torch.load"])
def test_what_runs_programs_is_always_refused(name, folder):
    with pytest.raises(ArgumentError, match=f"asks for {name}, which is refused"):
        with_import_checks(lambda: parse(name))


def test_a_reward_without_score_is_told_what_it_must_look_like(folder):
    (folder / "mine_d.py").write_text("class Mine:\n    def score(self, scenes): ...\n")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--reward", type=Reward)
    with pytest.raises(ArgumentError) as refused:
        parse_command_line(parser, ["--reward", "mine_d.Mine"])
    assert "`def score(self, batch: Batch, rollouts: Rollouts) -> Scores`" in str(refused.value)
    assert "\n" not in str(refused.value)


def judge(url, variable="MY_KEY"):
    return {"model": {"init_args": {"parts": [{"endpoint": {"url": url, "api_key_env": variable}}]}}}


def test_every_host_that_a_key_goes_to_is_found():
    assert list(api_keys_sent(judge("https://a.org/v1"))) == [("MY_KEY", "a.org")]
    assert list(api_keys_sent(judge("https://a.org/v1", None))) == []


def test_a_key_is_not_sent_without_consent(monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    with pytest.raises(DataError, match=r"sends the key in \$MY_KEY to a\.org: .*--key_host a\.org"):
        confirm_api_keys(judge("https://a.org/v1"))
    parse_global_options(["--key_host", "a.org"])
    confirm_api_keys(judge("https://a.org/v1"))
    confirm_api_keys(judge("http://localhost:8000/v1"))
    parse_global_options(["--key_host", "a.org", "--safe"])
    with pytest.raises(DataError, match="--safe refuses"):
        confirm_api_keys(judge("https://a.org/v1"))


@pytest.mark.parametrize(("answer", "is_sent"), [("y", True), ("", False), ("n", False)])
def test_on_a_terminal_it_is_asked(answer, is_sent, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    if is_sent:
        confirm_api_keys(judge("https://a.org/v1"))
    else:
        with pytest.raises(DataError, match="not agreed to"):
            confirm_api_keys(judge("https://a.org/v1"))
