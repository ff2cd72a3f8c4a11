"""Every shipped arm: each of its stages is a command line that lvad understands; a student learns from its teacher."""

import json

import pytest
import yaml

from lvad.assets import CONFIGS
from lvad.cli import main
from lvad.commands.study_plan import make_plan, read_study
from lvad.data.ledger import labelled_ids, read_ledger
from lvad.data.pseudo_labels import PSEUDO_LABELS, read_pseudo_labels

ARMS = sorted(path.stem for path in (CONFIGS / "study/arms").glob("*.yaml"))


def plan_of(arm, folder):
    """One cell, with 8 labels."""
    content = {"budgets": [8], "seeds": [0], "arms": {arm: f"configs/study/arms/{arm}.yaml"}, "root": str(folder)}
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    return make_plan(read_study(folder / "study.yaml"))


@pytest.mark.parametrize("arm", ARMS)
def test_every_stage_of_an_arm_parses(arm, tmp_path, capsys):
    for job in plan_of(arm, tmp_path).jobs.values():
        with pytest.raises(SystemExit) as stopped:
            main([*job.command, "--print_config"])
        printed = capsys.readouterr()
        assert stopped.value.code == 0, printed.err
        assert "class_path: lvad.modules." in printed.out


@pytest.mark.slow
def test_a_student_learns_what_its_teacher_was_sure_of(tmp_path, monkeypatch):
    """Through the command line: the teacher's file is where the student looks, and costs no label."""
    monkeypatch.chdir(tmp_path)
    small = [
        "--data.source.root",
        "drawn",
        "--data.source.num_drawn",
        "{train: 24, val: 1, test: 8}",
        "--trainer.max_steps",
        "2",
    ]
    plan = plan_of("self_training", tmp_path)
    teacher, student = plan.jobs.values()
    sure = {"threshold": 0.0}  # of a teacher of 2 steps
    assert main([*teacher.command, *small, "--model.init_args.pseudo_labels", json.dumps(sure)]) == 0
    labels = read_pseudo_labels(teacher.folder / "model" / PSEUDO_LABELS)
    assert len(labels) == 16
    assert main([*student.command, *small]) == 0
    ledger = read_ledger(student.folder)
    assert set(ledger["ActionSFT train, pseudo-labelled"]) == set(labels)
    assert len(labelled_ids(ledger)) == 8
