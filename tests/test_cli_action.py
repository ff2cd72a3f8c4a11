"""The second stage on the command line: fit, test, and the report that it leaves."""

import csv
import io
import json

import pytest
from PIL import Image
from small_fits import run_here
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_cli import SMALL

from lvad.report.answers_file import read_answers

pytestmark = pytest.mark.slow  # the fixture runs fits for more than a minute


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("action")
    run_here("fit", "--config", "configs/action_sft.yaml", *SMALL, "--trainer.check_val_every_n_epoch", "1", cwd=cwd)
    run_here("test", cwd=cwd)
    return cwd / "logs/action_sft/version_0"


def test_scores_stand_beside_their_floors(tested):
    metrics = json.loads((tested / "metrics.json").read_text())
    scores = ("action_macro_f1", "action_f1_all", "action_exact_match", "reason_macro_f1", "action_f1/stop")
    assert {f"test/{score}" for score in (*scores, "parse_failure")} <= set(metrics)
    for floor in ("always_stop", "majority", "all_positive", "all_negative"):
        assert {f"test/{floor}/{score}" for score in scores} <= set(metrics)
    titles = [line for line in (tested / "tables.md").read_text().splitlines() if line.startswith("## ")]
    assert titles[0].startswith("## Scores on 8 test scenes and what constant answers reach")
    assert titles[1:2] == ["## Table 2: actions"]


def test_every_answer_is_kept_and_shown(tested):
    answered = read_answers(tested / "answers.jsonl")
    assert len(answered) == 8
    assert all(scene.true_actions is not None for scene in answered)
    page = (tested / "gallery.html").read_text()
    assert page.count("<article") == 8
    rows = list(csv.DictReader((tested / "labels.csv").open()))
    assert len(rows) == 25
    assert sum(int(row["support"]) for row in rows[:4]) == sum(sum(scene.true_actions) for scene in answered)
    for name in ("label_distribution", "label_f1", "action_confusion", "loss_curve"):
        assert Image.open(tested / f"{name}.png").width > 600


def test_the_reports_pictures_are_in_tensorboard(tested):
    events = EventAccumulator(str(tested), size_guidance={"images": 0})
    events.Reload()
    shown = {
        "label_distribution",
        "label_f1",
        "action_confusion",
        "action_reliability",
        *(f"answers/{i}" for i in range(4)),
    }
    assert {f"test/{name}" for name in shown} <= set(events.Tags()["images"])
    (picture,) = events.Images("test/answers/0")
    assert Image.open(io.BytesIO(picture.encoded_image_string)).width > 600
