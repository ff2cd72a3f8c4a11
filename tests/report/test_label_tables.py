"""Scores per label, worked by hand."""

import csv

import pytest
import torch

from lvad.report.label_tables import label_table, score_labels, write_label_csv

NAMES = ("a", "b", "c")
TRUE = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]])
SAID = torch.tensor([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]])


def test_scores_by_hand():
    """a: 2 true of 3 said, 3 true: P 2/3, R 2/3. b: 1 of 1 said, 2 true: P 1, R 1/2, F1 2/3. c: never: 0."""
    a, b, c = score_labels(TRUE, SAID, NAMES)
    assert (a.share, a.support, a.predicted) == (0.75, 3, 3)
    assert (a.precision, a.recall, a.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert (b.support, b.predicted, b.precision, b.recall) == (2, 1, 1.0, 0.5)
    assert b.f1 == pytest.approx(2 / 3)
    assert (c.support, c.predicted, c.precision, c.recall, c.f1) == (0, 0, 0.0, 0.0, 0.0)


def test_the_csv_holds_a_row_per_label(tmp_path):
    path = write_label_csv(tmp_path / "labels.csv", score_labels(TRUE, SAID, NAMES))
    rows = list(csv.DictReader(path.open()))
    assert [row["label"] for row in rows] == list(NAMES)
    assert float(rows[0]["f1"]) == pytest.approx(2 / 3)
    assert rows[1]["support"] == "2"


def test_a_table_in_the_papers_shape_ends_with_totals_and_floors():
    a, b, _ = score_labels(TRUE, SAID, NAMES)
    table = label_table("Table 2", "Action", {"forward": a, "stop": b}, {"macro-F1": 2 / 3}, {"always stop": 0.25})
    assert table.columns == ("Action", "Test GT (%)", "Test GT (#)", "Test F1 score (%)")
    assert table.rows == (
        ("forward", "75.00", "3", "66.67"),
        ("stop", "50.00", "2", "66.67"),
        ("macro-F1", "-", "-", "66.67"),
        ("floor: always stop", "-", "-", "25.00"),
    )


def test_other_shapes_are_refused():
    for true, said in ((TRUE, SAID[:, :2]), (TRUE[:0], SAID[:0]), (TRUE[0], SAID[0])):
        with pytest.raises(ValueError, match=r"must both be \[N, 3\] with N > 0"):
            score_labels(true, said, NAMES)
