"""``lvad pipeline``: what runs, what is skipped, what goes on; once for real, else with stand-ins for the stages."""

import fcntl
import json
import signal
import sys

import pytest
import yaml
from answered import FORWARD, STOP, write_run

from lvad.cli import main
from lvad.commands.pipeline import run_process

STAGES = [
    {"name": "reward", "config": "mine.yaml", "test": False},
    {"name": "rloo", "config": "mine.yaml", "overrides": {"model.reward": "{reward}"}},
    {"name": "sft", "config": "mine.yaml"},
]


class Stages:
    """Stands for the processes: leaves what a stage leaves, and remembers what was asked for."""

    def __init__(self, root):
        self.root, self.calls, self.broken, self.code = root, [], "", 0

    def __call__(self, command, pass_fds=()):
        assert command[:3] == [sys.executable, "-m", "lvad.cli"]
        assert len(pass_fds) == 1
        name, options = command[3], dict(zip(command[4::2], command[5::2], strict=True))
        if name == "test":
            folder = self.root / options["--config"].removesuffix("/config.yaml")
            write_run(folder, (FORWARD if folder.name == "rloo" else STOP, STOP, STOP, STOP))
        else:
            folder = self.root / "r/n" / options["--trainer.logger.init_args.version"]
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            (folder / "checkpoints/last.ckpt").touch()
        self.calls.append(f"{name} {folder.name}" + (" on" if name == "fit" and "--ckpt_path" in options else ""))
        if f"{name} {folder.name}" == self.broken:
            return self.code
        (folder / "checkpoints/best.ckpt").touch()
        (folder / "model").mkdir(exist_ok=True)
        (folder / "metrics.json").write_text("{}")
        return 0


@pytest.fixture
def pipeline(tmp_path, monkeypatch, capsys):
    """Runs the command; returns exit code, what ran, and what was said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    stages = Stages(tmp_path)
    monkeypatch.setattr("lvad.commands.pipeline.run_process", stages)

    def run(*args, broken="", code=0, changed=None):
        content = {"stages": STAGES, "compare": {"pipeline": "rloo", "baseline": "sft"}, "name": "n", "root": "r"}
        (tmp_path / "p.yaml").write_text(yaml.safe_dump(content | (changed or {}), sort_keys=False))
        stages.calls, stages.broken, stages.code = [], broken, code
        found = main(["pipeline", "--config", "p.yaml", *args])
        return found, stages.calls, capsys.readouterr()

    return run


ALL = ["fit reward", "fit rloo", "test rloo", "fit sft", "test sft"]


def test_every_stage_runs_once_and_the_comparison_ends_it(pipeline, tmp_path):
    code, calls, said = pipeline()
    assert (code, calls) == (0, ALL)
    assert "lvad: $ lvad fit --config mine.yaml --model.reward r/n/reward/model --trainer.logger" in said.out
    assert "| always stop " in said.out
    assert "  rloo: fit 0, test 0: r/n/rloo" in said.out
    found = json.loads((tmp_path / "r/n/comparison.json").read_text())
    assert list(found["folders"]) == ["pipeline", "baseline"]
    stages = json.loads((tmp_path / "r/n/pipeline.json").read_text())["stages"]
    assert [stage["folder"] for stage in stages] == ["r/n/reward", "r/n/rloo", "r/n/sft"]
    assert stages[0]["test_command"] is None
    assert stages[1]["test_command"].startswith("lvad test --config r/n/rloo/config.yaml --ckpt_path r/n/rloo/check")


def test_a_second_call_skips_everything_and_compares_again(pipeline, tmp_path):
    pipeline()
    (tmp_path / "r/n/comparison.md").unlink()
    code, calls, said = pipeline()
    assert (code, calls) == (0, [])
    assert said.out.count("fit skipped: finished at") == 3
    assert said.out.count("test skipped") == 2
    assert (tmp_path / "r/n/comparison.md").is_file()


def test_a_stage_that_was_deleted_runs_again_with_what_is_built_on_it(pipeline, tmp_path):
    pipeline()
    (tmp_path / "r/n/reward").rename(tmp_path / "gone")
    code, calls, said = pipeline()
    assert (code, calls) == (0, ALL[:3])
    assert "lvad: fit: it has not run yet" in said.out
    assert "lvad: fit: reward ran anew" in said.out
    assert "the earlier one was moved to r/n/replaced/rloo-1" in said.out
    assert (tmp_path / "r/n/replaced/rloo-1/answers.jsonl").is_file()


def test_an_override_runs_its_stage_again_and_no_other(pipeline):
    pipeline()
    stages = [*STAGES[:2], {**STAGES[2], "overrides": {"data.seed": 1}}]
    code, calls, said = pipeline(changed={"stages": stages})
    assert (code, calls) == (0, ALL[3:])
    assert "lvad: fit: its command line changed: --data.seed 1" in said.out


def test_a_configuration_that_changed_runs_all_that_use_it_again(pipeline, tmp_path):
    pipeline()
    (tmp_path / "mine.yaml").write_text("a: 2\n")
    code, calls, said = pipeline()
    assert (code, calls) == (0, ALL)
    assert said.out.count("its configuration file changed") == 3


def test_a_killed_stage_goes_on_from_its_last_checkpoint(pipeline):
    code, calls, said = pipeline(broken="fit rloo", code=-9)
    assert (code, calls) == (1, ALL[:2])
    assert "stage 'rloo' ended with exit code -9; to repeat it alone: lvad fit --config mine.yaml" in said.err
    code, calls, said = pipeline()
    assert (code, calls) == (0, ["fit rloo on", *ALL[2:]])
    assert "fit goes on from r/n/rloo/checkpoints/last.ckpt" in said.out


def test_a_killed_stage_without_a_checkpoint_or_with_another_command_starts_anew(pipeline, tmp_path):
    pipeline(broken="fit reward", code=1)
    (tmp_path / "r/n/reward/checkpoints/last.ckpt").unlink()
    _, calls, said = pipeline(broken="fit reward", code=1)
    assert calls == ["fit reward"]
    assert "it was broken off before its first checkpoint" in said.out
    _, calls, said = pipeline("--seed", "5")
    assert calls == ALL
    assert "its command line changed: --seed_everything 5" in said.out


TAKES_LEAVE = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path("checkpoint").touch(), sys.exit(143)))
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(60)
"""


def test_a_pipeline_that_is_ended_lets_its_stage_write_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as the pipeline has it
    try:
        with pytest.raises(SystemExit):
            run_process([sys.executable, "-c", TAKES_LEAVE])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "checkpoint").exists()


def test_a_folder_that_no_pipeline_made_is_left_alone(pipeline, tmp_path):
    mine = tmp_path / "r/n/reward/notes/mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    code, calls, said = pipeline()
    assert (code, calls) == (1, [])
    assert "r/n/reward: holds files, but no stage.json: no pipeline made it; move it away, or choose ano" in said.err
    assert mine.read_text() == "mine"
    mine.unlink()
    mine.parent.rmdir()
    assert pipeline()[:2] == (0, ALL)  # an empty folder is in nobody's way


def test_a_test_that_failed_is_repeated_without_its_fit(pipeline):
    code, calls, said = pipeline(broken="test rloo", code=2)
    assert (code, calls) == (1, ALL[:3])
    assert "stage 'rloo' ended with exit code 2; to repeat it alone: lvad test --config r/n/rloo/config" in said.err
    assert pipeline()[:2] == (0, ALL[2:])


def test_a_stage_that_exports_nothing_is_refused(pipeline):
    code, _, said = pipeline(broken="fit reward", code=0)
    assert code == 1
    assert "stage 'reward' left no model/ and metrics.json in r/n/reward; its export must be on" in said.err


def test_two_at_once_in_one_folder_are_refused(pipeline, tmp_path):
    pipeline()
    with (tmp_path / "r/n/lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, calls, said = pipeline()
    assert (code, calls) == (1, [])
    assert said.err == ("lvad: error: a pipeline or one of its stages is at work in r/n; wait for it or end it\n")
    assert pipeline()[0] == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"seeds": 1}, "p.yaml: unknown key 'seeds'"), ({"stages": [{"name": "a", "config": "b"}]}, "no configuration")],
)
def test_a_mistake_in_the_file_runs_nothing(pipeline, tmp_path, changed, message):
    code, calls, said = pipeline(changed=changed)
    assert (code, calls) == (1, [])
    assert message in said.err
    assert not (tmp_path / "r").exists()


def test_a_broken_record_is_named(pipeline, tmp_path):
    pipeline()
    (tmp_path / "r/n/sft/stage.json").write_text("{}")
    code, _, said = pipeline()
    assert code == 1
    assert "stage.json: must hold" in said.err
    assert "move its folder away, and the stage runs again" in said.err
    (tmp_path / "r/n/sft").rename(tmp_path / "away")
    assert pipeline()[:2] == (0, ALL[3:])
