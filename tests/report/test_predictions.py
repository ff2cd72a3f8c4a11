"""What ``lvad predict`` writes of an answered scene."""

from lvad.report.predictions import answer_row, description_row, new_folder, prediction_line
from lvad.types import AnsweredScene, Prediction


def scene(**changes):
    start = AnsweredScene(
        "a", "A red light.", "Action: stop. Reason: traffic sign.", (0, 1, 0, 0), (0,) * 8 + (1,) + (0,) * 12, True,
        (0.1, 0.8, 0.05, 0.05), (), None, None,
    )  # fmt: skip
    return start._replace(**changes)


def test_everything_that_was_said_is_named():
    row = answer_row(scene(reason_probabilities=(0.5,) * 21))
    assert row["description"] == "A red light."
    assert (row["actions"], row["reasons"], row["is_valid"]) == (["stop"], ["traffic sign"], True)
    assert row["action_probabilities"] == {"forward": 0.1, "stop": 0.8, "left": 0.05, "right": 0.05}
    assert len(row["reason_probabilities"]) == 21


def test_what_was_not_computed_is_left_out():
    row = answer_row(scene(description="", action_probabilities=()))
    assert set(row) == {"id", "answer", "is_valid", "actions", "reasons"}
    assert description_row(Prediction("b", "a car", None)) == {"id": "b", "description": "a car"}
    assert description_row(Prediction("b", "a car", 0.5))["reward"] == 0.5


def test_what_was_said_stands_in_one_line():
    assert prediction_line(scene()) == "a: A red light. Action: stop. Reason: traffic sign."
    assert prediction_line(Prediction("b/1", "a car\nahead", 0.25)) == "b/1: a car ahead (reward 0.250)"
    assert prediction_line(Prediction("b/1", "a car", None)) == "b/1: a car"


def test_earlier_predictions_are_never_written_over(tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert [new_folder(out).name for _ in range(3)] == ["out", "out_1", "out_2"]
    (out / "predictions.jsonl").unlink()
    assert new_folder(out) == out  # nothing left in it
    (tmp_path / "out_1/predictions.jsonl").unlink()
    (tmp_path / "out_1/pictures").mkdir()
    (tmp_path / "out_1/pictures/0-000003-a_b.png").touch()
    assert new_folder(out).name == "out_3"  # pictures whose rows are gone
    monkeypatch.chdir(out)
    assert new_folder(out.relative_to(out)) == tmp_path / "out_4"  # the folder "."
