"""The figure of a study: curves where there are several budgets, rows where there is one."""

import math

import pytest

from lvad.metrics.intervals import Interval
from lvad.report.study_figure import study_figure
from lvad.report.study_findings import ACTIONS, REASONS, Findings, Mean

FLOORS = {"always_stop": {ACTIONS: 0.2}, "all_positive": {ACTIONS: 0.4, REASONS: 0.1}}


def mean(arm, budget, action=0.5, num_seeds=5):
    scores = {ACTIONS: Interval(action, action - 0.1, action + 0.1), REASONS: Interval(0.3, 0.2, 0.4)}
    return Mean(arm, budget, [budget], list(range(num_seeds)), scores)


def drawn(means, titles=None):
    return study_figure("mine", Findings("test", 300, means, [], [], FLOORS, ["sft"]), titles)


def reach(axes, row):
    """Half of the interval that is drawn at a row, in percent."""
    (low, _), (high, _) = axes.containers[0].lines[2][0].get_segments()[row]
    return (high - low) / 2


def test_arms_with_several_budgets_are_curves_and_floors_are_lines():
    figure = drawn([mean(arm, budget) for arm in ("sft", "rl") for budget in (10, 20)])
    names = [text.get_text() for text in figure.subfigs[0].legends[0].get_texts()]
    assert sorted(names) == ["floor: all positive", "floor: always stop", "rl", "sft"]
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "log"]


def test_an_arm_with_one_budget_has_a_row_beside_all_others_at_that_budget():
    figure = drawn([mean("rl", 10), mean("rl", 20, 0.7), mean("sft", 20, 0.6), mean("oracle", 20, 0.8)], {"rl": "mine"})
    curves, _, rows, _ = figure.axes
    assert len(curves.containers) == 1
    assert rows.get_xlabel() == "action macro-F1 at 20 labels, %"
    assert [label.get_text() for label in rows.get_yticklabels()] == ["sft", "mine", "oracle"]
    assert list(rows.containers[0].lines[0].get_xdata()) == pytest.approx([60, 70, 80])


def test_an_interval_of_two_seeds_is_not_drawn():
    _, _, rows, _ = drawn([mean("rl", 10), mean("rl", 20, 0.7), mean("sft", 20, 0.6, num_seeds=2)]).axes
    assert reach(rows, 0) == 0
    assert reach(rows, 1) == pytest.approx(10)


def test_one_budget_alone_has_points():
    nan = math.nan
    alone = Mean("sft", 10, [10], [0], {ACTIONS: Interval(0.5, nan, nan), REASONS: Interval(nan, nan, nan)})
    figure = drawn([alone])
    assert len(figure.axes) == 2
    assert list(figure.axes[0].containers[0].lines[0].get_ydata()) == [50]


def test_a_budget_of_no_labels_has_no_place_on_the_axis():
    assert not drawn([mean("sft", 0)]).axes[0].containers
