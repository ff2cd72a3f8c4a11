"""What a comparison is written as."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from lvad.metrics.intervals import Interval
from lvad.report.compare_answers import Comparison, LabelCounts
from lvad.report.comparison_files import comparison_tables, comparison_text, write_comparison
from lvad.report.label_tables import LabelScore
from lvad.taxonomy import BDD_OIA

EQUAL = (LabelCounts(108, 100, 8), LabelCounts(108, 100, 8))


def comparison(budgets=EQUAL, auroc=float("nan")):
    mine = {"action_macro_f1": Interval(0.5, 0.4, 0.6), "action_auroc": Interval(auroc, auroc, auroc)}
    other = {"action_macro_f1": Interval(0.25, 0.2, 0.3)}
    floor = {"action_macro_f1": Interval(0.125, 0.1, 0.15)}
    return Comparison(
        num_scenes=300,
        folders={"mine": Path("logs/mine"), "other": Path("logs/other")},
        budgets=dict(zip(("mine", "other"), budgets, strict=True)),
        arms={"mine": mine, "other": other},
        floors={name: floor for name in ("always stop", "all positive", "all negative")},
        differences={
            "other": {"action_macro_f1": Interval(0.25, 0.1, 0.4)},
            "always stop": {"action_macro_f1": Interval(0.375, -0.01, 0.5)},
        },
        labels={
            "mine": [LabelScore("stop", 0.5, 150, 120, 0.9, 0.72, 0.8), LabelScore("left", 0.0, 0, 0, 0, 0, 0)],
            "other": [LabelScore("stop", 0.5, 150, 300, 0.5, 1.0, 0.667), LabelScore("left", 0.0, 0, 9, 0, 0, 0)],
        },
        taxonomy=BDD_OIA,
    )


def test_tables_have_runs_and_floors_as_rows():
    actions, probabilities, said, f1, differences, budgets = comparison_tables(comparison())
    assert [cell.strip() for cell in actions.columns] == ["", "labels", "macro-F1"]
    rows = {row[0].strip(): row[2].strip() for row in actions.rows}
    assert [row[1].strip() for row in actions.rows] == ["108", "108", "0", "0", "0"]
    assert list(rows) == ["mine", "other", "always stop", "all positive", "all negative"]
    assert rows["mine"] == "50.0 (40.0 to 60.0)"
    assert [row[2].strip() for row in probabilities.rows] == ["-"] * 5
    assert differences.title.startswith("mine minus each other")
    cells = [cell.strip() for cell in differences.rows[0]]
    assert cells == ["action_macro_f1", "+25.0 (+10.0 to +40.0) *", "+37.5 (-1.0 to +50.0)"]
    assert said.columns == ("label", "true", "mine", "other")
    assert said.rows == (("stop", "150", "120", "300"), ("left", "0", "0", "9"))
    assert f1.rows == (("stop", "80.00", "66.70"), ("left", "0.00", "0.00"))
    assert [cell.strip() for cell in budgets.rows[0]] == ["mine", "108", "100", "8", "logs/mine"]


@pytest.mark.parametrize(
    ("budgets", "line"),
    [
        (EQUAL, "Labels are equal over all stages: mine 108, other 108."),
        # As many in training, but one of them chose its checkpoint by eight more.
        ((LabelCounts(108, 100, 8), LabelCounts(100, 100, 0)), "Labels DIFFER over all stages: mine 108, other 100."),
        (
            (LabelCounts(1508, 1500, 8), LabelCounts(108, 100, 8)),
            "Labels DIFFER over all stages: mine 1,508, other 108.",
        ),
        ((LabelCounts(0, 0, 0), LabelCounts(0, 0, 0)), "Labels are equal over all stages: mine 0, other 0."),
        (
            (LabelCounts(108, 100, 8), LabelCounts(None, 0, 0)),
            "Labels are not known of other, which has no ledger.json",
        ),
    ],
)
def test_label_budgets_are_held_against_each_other(budgets, line):
    assert comparison_text(comparison(budgets)).splitlines()[-1].startswith(line)


def test_all_files_with_the_same_rows(tmp_path):
    files = write_comparison(tmp_path / "out", comparison())
    assert [file.name for file in files] == [f"comparison.{kind}" for kind in ("md", "csv", "json", "png", "html")]
    found = json.loads(files[2].read_text())
    assert found["labelled_scenes"]["mine"] == {"labels": 108, "train": 100, "val": 8}
    assert found["scores"][0] == {
        "kind": "arm", "name": "mine", "minus": None, "score": "action_macro_f1", "mean": 0.5, "low": 0.4, "high": 0.6,
        "excludes_zero": None,
    }  # fmt: skip
    assert found["scores"][1]["mean"] is None  # NaN
    last = found["scores"][-1]
    assert (last["kind"], last["name"], last["minus"], last["excludes_zero"]) == (
        "difference", "mine", "always stop", False,
    )  # fmt: skip
    rows = list(csv.DictReader(files[1].open()))
    assert [row["score"] for row in rows] == [row["score"] for row in found["scores"]]
    assert rows[0]["mean"] == "0.5"
    assert Image.open(files[3]).width >= 900
