"""``lvad report`` as a user meets it."""

import json

import pytest
from answered import FORWARD, STOP, write_run

from lvad.cli import main


@pytest.fixture
def report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "logs/two_stage/version_0", (FORWARD, STOP, STOP, STOP))
    write_run(tmp_path / "logs/action_sft/version_0", (STOP,) * 4)

    def run(*args):
        code = main(["report", *args])
        return code, capsys.readouterr()

    return run


RUNS = ("logs/two_stage/version_0", "logs/action_sft/version_0")


def test_tables_are_printed_and_files_written(report, tmp_path):
    code, said = report(*RUNS, "--names", "pipeline, sft baseline", "--out", "out")
    assert code == 0
    lines = [line.split(" | ")[0].strip(" |") for line in said.out.splitlines()]
    assert lines[4:9] == ["pipeline", "sft baseline", "always stop", "all positive", "all negative"]
    assert said.out.splitlines()[-1].startswith("comparison: out/comparison.md, ")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        f"comparison.{kind}" for kind in ("md", "csv", "json", "png", "html")
    }
    found = json.loads((tmp_path / "out/comparison.json").read_text())
    assert found["folders"] == {"pipeline": RUNS[0], "sft baseline": RUNS[1]}


def test_runs_are_named_by_what_tells_them_apart(report, tmp_path):
    code, said = report(*RUNS)
    assert code == 0
    assert "| two_stage/version_0 " in said.out
    assert (tmp_path / "logs/report/comparison.md").is_file()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("logs/nothing",), "no run folder at logs/nothing"),
        (("logs",), "logs has no answers.jsonl"),
        ((RUNS[0], RUNS[0]), "is given twice"),
        ((*RUNS, "--names", "a"), "--names must be as many as the 2 runs, got 1"),
        ((*RUNS, "--names", "a,a"), "--names must all be different, got 'a' twice"),
        ((*RUNS, "--names", "a,always stop"), "cannot be named 'always stop'"),
    ],
)
def test_a_mistake_ends_in_one_line(report, args, message):
    code, said = report(*args)
    assert code == 1
    assert said.err.startswith("lvad: error: ")
    assert message in said.err
    assert said.err.count("\n") == 1
