"""Several seeds together: values worked by hand, and textbook quantiles."""

import math

import pytest

from lvad.metrics.seeds import LabelsNeeded, labels_needed, mean_interval, student_t


@pytest.mark.parametrize(
    ("confidence", "degrees", "value"),
    # Tables of Student's t, two-sided.
    [(0.95, 1, 12.706), (0.95, 2, 4.303), (0.95, 3, 3.182), (0.95, 4, 2.776), (0.95, 9, 2.262), (0.95, 30, 2.042),
     (0.90, 5, 2.015), (0.99, 4, 4.604), (0.5, 1, 1.000), (0.95, 120, 1.980)],
)  # fmt: skip
def test_quantiles_are_those_of_the_tables(confidence, degrees, value):
    assert student_t(confidence, degrees) == pytest.approx(value, abs=5e-4)


def test_the_interval_of_a_mean_is_students():
    # Mean 3, squares 4 + 1 + 0 + 1 + 4 = 10, variance 10 / 4 = 2.5, standard error sqrt(2.5 / 5) = 0.70711.
    found = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3.0
    assert found.high - 3.0 == pytest.approx(2.776445 * math.sqrt(0.5), abs=1e-5)
    assert found.low + found.high == pytest.approx(6.0)
    # Of two values h apart: mean +- 12.706 h / 2.
    assert mean_interval([0.0, 2.0]).high == pytest.approx(1 + 12.7062, abs=1e-4)
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)


def test_one_seed_has_no_interval():
    found = mean_interval([0.7])
    assert found.mean == 0.7
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    with pytest.raises(ValueError, match="of no values"):
        mean_interval([])


def test_labels_are_interpolated_on_a_log_axis():
    # From 0.4 at 25 to 0.6 at 100: half of the way is half of the way in log, 50.
    assert labels_needed([25, 100], [0.4, 0.6], 0.5).count == pytest.approx(50.0)
    assert labels_needed([25, 100, 400], [0.4, 0.6, 0.7], 0.6) == LabelsNeeded(100.0)
    # A curve that falls again: where it first gets there.
    assert labels_needed([10, 100, 1000, 10000], [0.0, 0.8, 0.2, 0.9], 0.4).count == pytest.approx(10**1.5)


def test_labels_beyond_the_curve_are_bounds():
    assert labels_needed([25, 100], [0.4, 0.6], 0.61) == LabelsNeeded(100.0, "more than")
    assert labels_needed([25, 100], [0.4, 0.6], 0.4) == LabelsNeeded(25.0, "at most")
    assert labels_needed([25], [0.4], 0.5) == LabelsNeeded(25.0, "more than")


@pytest.mark.parametrize(
    ("budgets", "scores"), [([], []), ([1], [0.1, 0.2]), ([2, 2], [0.0, 1.0]), ([0, 2], [0.0, 1.0])]
)
def test_what_is_no_curve_is_refused(budgets, scores):
    with pytest.raises(ValueError, match=r"a score for each budget|must rise"):
        labels_needed(budgets, scores, 0.5)


@pytest.mark.parametrize(("confidence", "degrees"), [(0.0, 4), (1.0, 4), (0.95, 0)])
def test_what_is_no_quantile_is_refused(confidence, degrees):
    with pytest.raises(ValueError, match="got"):
        student_t(confidence, degrees)
