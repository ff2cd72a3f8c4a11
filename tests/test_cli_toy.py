"""The paper's first experiment on the command line: the supervised part, A2C from its model, and the report on both."""

import json

import pytest
from small_fits import run_here
from test_cli import run

from lvad.report.answers_file import read_answers

SHORT = (
    *("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--data.batch_size", "8"),
    *(
        "--data.source.num_drawn",
        "{train: 220, val: 0, test: 0}",
    ),  # of 8,000; nothing else is needed on a fresh checkout
)


pytestmark = pytest.mark.slow  # the fixture runs fits for more than a minute


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("toy")
    run_here("fit", "--config", "configs/toy_sft.yaml", *SHORT, "--data.split.num_scenes", "{train: 0.5}", cwd=cwd)
    run_here("test", cwd=cwd)
    run_here(
        "fit",
        "--config",
        "configs/toy_a2c.yaml",
        *SHORT,
        "--model.init_args.estimator.init_args.warmup_steps",
        "1",
        cwd=cwd,
    )
    run_here("test", cwd=cwd)
    return cwd


def test_both_parts_are_scored_by_the_same_measures(tested):
    sft = json.loads((tested / "logs/toy_sft/version_0/metrics.json").read_text())
    a2c = json.loads((tested / "logs/toy_a2c/version_0/metrics.json").read_text())
    assert {"test/action_macro_f1", "test/reason_macro_f1", "test/clip_score"} <= set(sft)
    assert {"test/action_macro_f1", "test/reason_macro_f1", "test/reward_r1", "test/reward_r2"} <= set(a2c)
    assert {"val/reward_start", "val/action_macro_f1"} <= set(a2c)
    both = [read_answers(tested / f"logs/{part}/version_0/answers.jsonl") for part in ("toy_sft", "toy_a2c")]
    assert [scene.id for scene in both[0]] == [scene.id for scene in both[1]]


def test_the_report_has_the_papers_figures_8_and_9(tested):
    text = run("report", "logs/toy_sft/version_0", "logs/toy_a2c/version_0", cwd=tested).stdout
    assert "## Labels: in how many scenes true and said (Fig. 8)" in text
    assert "## F1 of each label, % (Fig. 9)" in text


def test_the_critic_is_in_the_run(tested):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tested / "logs/toy_a2c/version_0"))
    events.Reload()
    watched = {f"while_training/{name}" for name in ("critic_loss", "critic_explained_variance", "train_kl")}
    assert watched <= set(events.Tags()["scalars"])
