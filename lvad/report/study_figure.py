"""The figure of a study: scores against labels, and all arms side by side at the budget that most of them share."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lvad.report.plot_style import BLUE, INK, ORANGE, new_figure
from lvad.report.study_findings import ACTIONS, SHOWN, Findings, Mean

_COLOURS: Final = (BLUE, ORANGE, "#2a9d5c", "#cc79a7", "#8a6d3b", "#56b4e9", "#7b5ea7", "#444444")
_MARKS: Final = "osD^vPX*"
_DASHES: Final = (":", "--")
_MIN_SEEDS: Final = 3
"""Seeds from which an interval is drawn: Student's t of two seeds is wider than the axis."""


def study_figure(name: str, found: Findings, titles: Mapping[str, str] | None = None) -> Figure:
    """Draw the scores of a study with their 95 % intervals over seeds.

    The upper row has a curve for each arm with several budgets, floors as horizontal lines. Where an arm has one budget
    only, a lower row has all arms at the budget that most of them have.

    Args:
        name: of the study, for the title.
        found: on one source of test scenes; a budget of 0 has no place on the log axis and is left out.
        titles: what arms are called; its own name where one is missing.
    """
    titles = titles or {}
    means = [mean for mean in found.means if mean.budget > 0]
    arms = list(dict.fromkeys(mean.arm for mean in means))
    counts = Counter(mean.arm for mean in means)
    curves = [arm for arm in arms if counts[arm] > 1] or arms
    shared = Counter(mean.budget for mean in means).most_common(1)[0][0] if len(curves) < len(arms) else None
    figure = new_figure(11.0, 5.0 if shared is None else 6.0 + 0.3 * len(arms))
    figure.suptitle(f"{name}: {found.num_scenes} {found.source} scenes, mean and 95 % interval over seeds", color=INK)
    heights = [5.0] if shared is None else [5.0, 1.0 + 0.3 * len(arms)]
    upper, *lower = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, score in zip(upper.subplots(1, 2), SHOWN, strict=True):
        _draw_curves(axes, found, [[mean for mean in means if mean.arm == arm] for arm in curves], score, titles)
    handles, labels = upper.axes[0].get_legend_handles_labels()
    upper.legend(handles, labels, frameon=False, loc="outside lower center", ncols=3)
    for row in lower:
        for axes, score in zip(row.subplots(1, 2, sharey=True), SHOWN, strict=True):
            _draw_side_by_side(axes, [mean for mean in means if mean.budget == shared], score, titles)
    return figure


def _draw_curves(
    axes: Axes, found: Findings, arms: Sequence[Sequence[Mean]], score: str, titles: Mapping[str, str]
) -> None:
    for number, own in enumerate(arms):
        _draw_curve(axes, titles.get(own[0].arm, own[0].arm), sorted(own, key=lambda mean: mean.budget), score, number)
    for (floor, values), dashes in zip(found.floors.items(), _DASHES, strict=True):
        if score in values:
            label = f"floor: {floor.replace('_', ' ')}"
            axes.axhline(100 * values[score], color=INK, linestyle=dashes, linewidth=1, label=label)
    budgets = sorted({mean.budget for own in arms for mean in own})
    axes.set(xlabel="labels, over all stages", ylabel=f"{SHOWN[score]}, %", xscale="log")
    axes.set_xticks(budgets, [str(budget) for budget in budgets])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    _plain_frame(axes)


def _draw_curve(axes: Axes, title: str, means: Sequence[Mean], score: str, number: int) -> None:
    shift = 1.02 ** (number - 2)  # so that intervals at one budget do not cover each other
    values = [100 * mean.scores[score].mean for mean in means]
    colour, mark = _COLOURS[number % len(_COLOURS)], _MARKS[number % len(_MARKS)]
    reach = [_reach(mean, score) for mean in means]
    places = [mean.budget * shift for mean in means]
    axes.errorbar(places, values, yerr=reach, color=colour, marker=mark, markersize=5, capsize=2, label=title)


def _draw_side_by_side(axes: Axes, means: Sequence[Mean], score: str, titles: Mapping[str, str]) -> None:
    """Draw a row for each arm, the highest mean of the actions on top."""
    ranked = sorted(means, key=lambda mean: mean.scores[ACTIONS].mean)
    values, reach = [100 * mean.scores[score].mean for mean in ranked], [_reach(mean, score) for mean in ranked]
    axes.errorbar(values, range(len(ranked)), xerr=reach, color=INK, marker="o", markersize=5, capsize=2, linestyle="")
    axes.set_yticks(range(len(ranked)), [titles.get(mean.arm, mean.arm) for mean in ranked])
    axes.set_xlabel(f"{SHOWN[score]} at {ranked[0].budget} labels, %")
    _plain_frame(axes)


def _reach(mean: Mean, score: str) -> float:
    """Compute half of the interval in percent; 0 where there are too few seeds for one."""
    value = mean.scores[score]
    half = 100 * (value.high - value.mean)
    return 0.0 if math.isnan(half) or len(mean.seeds) < _MIN_SEEDS else half


def _plain_frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
