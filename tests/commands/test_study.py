"""``lvad study``: what runs, what is skipped, what fails, what is written; with stand-ins for the stages."""

import json
import shlex
import sys

import pytest
import yaml
from answered import FORWARD, STOP, write_run

from lvad.cli import main
from lvad.data.ledger import dump_ledger

SFT = {"name": "sft", "config": "mine.yaml", "overrides": {"data.split.budget": "{budget}"}}
RLOO = {"name": "rloo", "config": "other.yaml", "test": False}
ANSWERS = {
    "name": "answers",
    "config": "mine.yaml",
    "overrides": {"data.split.budget": "{budget}", "model.of": "{rloo}"},
}
STUDY = {
    "name": "n", "root": "r", "budgets": [2, 4], "seeds": [0, 1], "references": ["sft"], "parallel": 1,
    "arms": {"sft": "sft.yaml", "rloo": {"file": "rloo.yaml", "budgets": [4]}},
    "estimates": {"mine.yaml": 60, "other.yaml": 300},
}  # fmt: skip


class Stages:
    """Stands for the processes: leaves what a stage leaves, and remembers what was asked for."""

    def __init__(self, root):
        self.root, self.calls, self.broken, self.labels = root, [], "", 0

    def __call__(self, processes, command, environment, log):
        assert command[:3] == [sys.executable, "-m", "lvad.cli"]
        name, options = command[3], dict(zip(command[4::2], command[5::2], strict=True))
        if name == "fit":
            place = [options[f"--trainer.logger.init_args.{key}"] for key in ("save_dir", "name", "version")]
            folder = self.root.joinpath(*place)
        else:
            folder = (self.root / options["--config"]).parent
        is_extra = "--recorder.run_dir" in options
        said = f"{'extra' if is_extra else name} {'/'.join(folder.parts[-3:]).rpartition('-')[0]}"
        self.calls.append(said)
        if said == self.broken:
            log.open("a").write("lvad: error: no such thing\n")
            return 1
        if name == "fit":
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            (folder / "checkpoints/last.ckpt").touch()
            (folder / "model").mkdir(exist_ok=True)
            (folder / "metrics.json").write_text("{}")
            budget = int(options.get("--data.split.budget", 0)) + self.labels
            (folder / "ledger.json").write_text(dump_ledger({"X train, labelled": [f"s{i}" for i in range(budget)]}))
        else:
            right = "answers" in folder.name
            write_run(folder / "extra_test" if is_extra else folder, (FORWARD if right else STOP, STOP, STOP, STOP))
        return 0


@pytest.fixture
def study(tmp_path, monkeypatch, capsys):
    """Runs the command; returns exit code, what ran, and what was said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in ("mine", "other"):
        (tmp_path / f"{name}.yaml").write_text("a: 1\n")
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump({"stages": [SFT]}))
    (tmp_path / "rloo.yaml").write_text(yaml.safe_dump({"stages": [RLOO, ANSWERS]}))
    stages = Stages(tmp_path)
    monkeypatch.setattr("lvad.commands.study_queue.Processes.run", lambda *args: stages(*args))

    def run(*args, broken="", labels=0, **changed):
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(STUDY | changed, sort_keys=False))
        stages.calls, stages.broken, stages.labels = [], broken, labels
        return main(["study", "--config", "s.yaml", *args]), stages.calls, capsys.readouterr()

    return run


def of_seed(seed):
    return [
        f"fit n2/seed-{seed}/sft", f"test n2/seed-{seed}/sft", f"fit n4/seed-{seed}/sft", f"test n4/seed-{seed}/sft",
        f"fit shared/seed-{seed}/rloo", f"fit n4/seed-{seed}/answers", f"test n4/seed-{seed}/answers",
    ]  # fmt: skip


def test_every_stage_runs_once_and_the_tables_end_it(study, tmp_path):
    code, calls, said = study()
    assert (code, calls) == (0, [*of_seed(0), *of_seed(1)])
    # One scene goes and three stop. Stop alone has F1 6 / 7 of one action of four; all right are two of the four.
    assert "| sft | 4 | 4 | 2 | 21.4 (21.4 to 21.4) |" in said.out
    assert "| rloo | 4 | 4 | 2 | 50.0 (50.0 to 50.0) |" in said.out
    assert "| rloo - sft | 4 | equal | 2 | +28.6 (+28.6 to +28.6) * |" in said.out
    assert "| rloo | 4 | action macro-F1 | more than 4 | more than 1.0 |" in said.out
    assert "Labels are equal at every budget" in said.out
    assert "lvad: [0/8] started n2/seed-0/sft-" in said.out
    assert "lvad: [8/8] finished n4/seed-1/answers-" in said.out
    found = json.loads((tmp_path / "r/n/study.json").read_text())
    assert [(row["arm"], row["budget"], row["seed"], row["labels"]) for row in found["runs"]] == [
        ("sft", 2, 0, 2), ("sft", 4, 0, 4), ("rloo", 4, 0, 4), ("sft", 2, 1, 2), ("sft", 4, 1, 4), ("rloo", 4, 1, 4),
    ]  # fmt: skip
    row = found["runs"][2]
    assert row["command"] == "lvad study --config s.yaml --arms rloo --budgets 4 --seeds 0"
    assert [shlex.split(line)[3] for line in row["commands"]] == ["other.yaml", "mine.yaml"]
    assert row["device"] == "cpu, 1 threads"
    assert row["scores"]["test"]["action_macro_f1"] == 0.5
    assert {"seconds", "commit", "folder"} <= set(row)
    assert {path.name for path in (tmp_path / "r/n").iterdir() if path.is_file()} == {
        "lock", "study.md", "study.json", "study.png",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "r/n/tensorboard").iterdir()} == {"sft", "rloo", "study"}


def test_a_second_call_runs_nothing_and_writes_the_tables_again(study, tmp_path):
    study()
    (tmp_path / "r/n/study.md").unlink()
    code, calls, said = study()
    assert (code, calls) == (0, [])
    assert "started" not in said.out
    assert (tmp_path / "r/n/study.md").is_file()


def test_a_part_can_be_run_alone_and_the_rest_later(study):
    code, calls, said = study("--arms", "rloo", "--seeds", "1")
    assert (code, calls) == (0, of_seed(1)[4:])
    assert "| rloo | 4 | 4 | 1 | 50.0 |" in said.out
    code, calls, said = study("--budgets", "4", "--seeds", "1")
    assert (code, calls) == (0, of_seed(1)[2:4])
    assert "| rloo - sft | 4 | equal | 1 | +28.6 | +28.6 (" in said.out
    code, calls, _ = study()
    assert (code, calls) == (0, [*of_seed(0), *of_seed(1)[:2]])


def test_the_result_of_one_arm_may_be_an_untested_step_of_another(study, tmp_path):
    steps = [SFT | {"test": False}, ANSWERS | {"overrides": ANSWERS["overrides"] | {"model.of": "{sft}"}}]
    (tmp_path / "reversed.yaml").write_text(yaml.safe_dump({"stages": steps}))
    arms = STUDY["arms"] | {"reversed": {"file": "reversed.yaml", "budgets": [4]}}
    code, calls, said = study("--arms", "reversed", "--seeds", "0", arms=arms)
    assert (code, calls) == (0, ["fit n4/seed-0/sft", "fit n4/seed-0/answers", "test n4/seed-0/answers"])
    assert "| reversed | 4 | 4 | 1 | 50.0 |" in said.out
    assert "| sft | 4 |" not in said.out
    code, calls, said = study("--arms", "sft", "--budgets", "4", "--seeds", "0", arms=arms)
    assert (code, calls) == (0, ["test n4/seed-0/sft"])
    assert "| reversed - sft | 4 | equal | 1 | +28.6 |" in said.out


def test_a_failed_stage_is_named_with_what_to_repeat_and_others_go_on(study):
    code, calls, said = study(broken="fit shared/seed-0/rloo")
    assert (code, calls) == (1, [*of_seed(0)[:5], *of_seed(1)])
    assert said.err.count("lvad: error: ") == 3  # two stages, and what the first one's log says
    assert "stage 'rloo' ended with exit code 1; to repeat it alone: lvad fit --config other.yaml" in said.err
    assert "'lvad: error: no such thing' in r/n/shared/seed-0/rloo-" in said.err
    assert "; to repeat: lvad study --config s.yaml --arms rloo --budgets 4 --seeds 0\n" in said.err
    assert "not run: r/n/shared/seed-0/rloo-" in said.err
    assert "| rloo | 4 | 4 | 1 | 50.0 |" in said.out  # of the other seed
    code, calls, _ = study()
    assert (code, calls) == (0, of_seed(0)[4:])


def test_a_test_that_failed_is_repeated_without_its_fit(study):
    assert study("--seeds", "0", broken="test n4/seed-0/answers")[0] == 1
    assert study("--seeds", "0")[:2] == (0, ["test n4/seed-0/answers"])


def test_a_changed_configuration_runs_what_uses_it_and_what_is_built_on_that(study, tmp_path):
    study("--seeds", "0")
    (tmp_path / "other.yaml").write_text("a: 2\n")
    code, calls, _ = study("--seeds", "0", "--arms", "sft")
    assert (code, calls) == (0, [])
    found = json.loads((tmp_path / "r/n/study.json").read_text())
    assert {row["arm"] for row in found["runs"]} == {"sft"}  # what is stale is not reported
    assert study("--seeds", "0")[:2] == (0, of_seed(0)[4:])
    assert (tmp_path / "r/n/shared/seed-0/replaced").is_dir()


def test_finished_cells_are_tested_on_further_scenes_once(study, tmp_path):
    extra = {"data.source.root": "far", "data.source.num_drawn": {"train": 0}, "data.split.budget": None}
    study("--seeds", "0")
    code, calls, said = study("--seeds", "0", extra_test=extra)
    assert (code, calls) == (0, ["extra n2/seed-0/sft", "extra n4/seed-0/sft", "extra n4/seed-0/answers"])
    assert "## 4 scenes, extra_test, %: mean over seeds" in said.out
    assert (tmp_path / "r/n/study_extra_test.png").is_file()
    found = json.loads((tmp_path / "r/n/study.json").read_text())
    assert set(found["runs"][0]["scores"]) == {"test", "extra_test"}
    assert study("--seeds", "0", extra_test=extra)[1] == []
    assert len(study("--seeds", "0", extra_test=extra | {"data.source.root": "farther"})[1]) == 3


def test_a_plan_says_what_is_to_be_done_and_what_it_costs_and_runs_nothing(study, tmp_path):
    code, calls, said = study("--dry-run", "--seeds", "0", "--parallel", "2")
    assert (code, calls) == (0, [])
    assert not (tmp_path / "r").exists()
    assert "3. shared/seed-0/rloo-" in said.out
    assert "(for rloo): to do, 5 min (estimated in the file)" in said.out
    assert said.out.count("   $ lvad fit --config ") == 4
    assert "4 stages for 3 cells, of which 0 are done" in said.out
    # 3 x 60 + 300 = 480 s.
    assert "to do: 4 stages, 8 min, about 4 min with 2 at a time\n" in said.out
    study("--seeds", "0")
    said = study("--dry-run", estimates={})[2]
    assert "(mean of 2 finished)" in said.out
    assert "8 stages for 6 cells, of which 4 are done" in said.out
    assert "unknown" in study("--dry-run", "--seeds", "5", estimates={}, name="m")[2].out


def test_labels_that_are_not_the_budgets_are_said(study):
    _, _, said = study("--seeds", "0", labels=3)
    assert "Labels DIFFER from the budget, over all stages: sft at 2: 5; sft at 4: 7; rloo at 4: 7." in said.out
    assert "equal at every budget" not in said.out


def test_the_gpus_are_taken_in_turn(monkeypatch):
    from lvad.commands.study import _devices

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert _devices(3) == [2, 5, 2]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert _devices(2) == [None, None]


@pytest.mark.parametrize(
    ("args", "message"),
    [(("--arms", "x"), "no arm 'x' in the study"), (("--parallel", "0"), "--parallel must be at least 1, got 0"),
     (("--arms", "rloo", "--budgets", "2"), "nothing to run")],
)  # fmt: skip
def test_a_mistake_on_the_command_line_runs_nothing(study, args, message):
    code, calls, said = study(*args)
    assert (code, calls) == (1, [])
    assert message in said.err
