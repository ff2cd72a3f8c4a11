"""Plots of an evaluation: true and predicted labels, F1, confusion, reliability. They read no training state."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lvad.metrics.calibration import CalibrationCurve, calibration_curve
from lvad.metrics.multilabel import probability_scores
from lvad.report.label_tables import LabelScore
from lvad.report.plot_style import BLUE, INK, ORANGE, new_figure
from lvad.taxonomy import BDD_OIA, Taxonomy

DPI: Final = 120
"""Dots per inch; a figure is 1200 px wide."""

_WIDTH: Final = 10.0
_GREY: Final = "#9aa0a6"
_PURPLE: Final = "#cc79a7"
_SYSTEM_COLOURS: Final = (BLUE, ORANGE, _PURPLE)
_BAR_HEIGHT: Final = 0.17  # inches, enough for a number of size 8 beside it
_HEAD_HEIGHT: Final = 1.5


class _Group(NamedTuple):
    """The bars of one colour, one per label."""

    name: str
    colour: str
    lengths: list[float]
    notes: list[str]


def distribution_figure(
    true: Tensor, predicted: Mapping[str, Tensor], title: str, taxonomy: Taxonomy = BDD_OIA
) -> Figure:
    """Plot how often each label is true and how often it is predicted (the paper's Fig. 8).

    Args:
        true: int[N, L] zeros and ones, actions before reasons.
        predicted: name of a system to its int[N, L]; three systems at most.
        title: of the figure.
        taxonomy: what the labels are called.

    Raises:
        ValueError: for another number of columns, rows or systems.
    """
    labels = taxonomy.labels
    for name, matrix in {"true": true, **predicted}.items():
        if matrix.ndim != 2 or matrix.shape != (len(true), len(labels)):
            raise ValueError(f"{name} must be [{len(true)}, {len(labels)}], got {list(matrix.shape)}")
    groups = [_count_group("true", _GREY, true)]
    systems = zip(predicted.items(), _colours(predicted), strict=True)
    groups += [_count_group(name, colour, matrix) for (name, matrix), colour in systems]
    return _label_bars(groups, labels, f"{title}, {len(true)} scenes", "scenes", taxonomy)


def f1_figure(scores: Mapping[str, Sequence[LabelScore]], title: str, taxonomy: Taxonomy = BDD_OIA) -> Figure:
    """Plot the F1 of each label with its support (the paper's Fig. 9); a label that is never true shows a dash.

    Args:
        scores: name of a system to its L scores, actions before reasons; three systems at most.
        title: of the figure.
        taxonomy: what the labels are called.

    Raises:
        ValueError: for other labels, no system or too many, or systems scored on other scenes.
    """
    labels = taxonomy.labels
    supports = {name: [score.support for score in rows] for name, rows in scores.items()}
    for name, rows in scores.items():
        if [score.label for score in rows] != list(labels):
            raise ValueError(f"{name} must have the scores of the {len(labels)} labels in their order")
    if len(set(map(tuple, supports.values()))) != 1:
        raise ValueError(f"systems must be scored on the same scenes, got supports {supports}")
    support = next(iter(supports.values()))
    names = [f"{label}  (n={count})" for label, count in zip(labels, support, strict=True)]
    groups = []
    for (name, rows), colour in zip(scores.items(), _colours(scores), strict=True):
        notes = [f"{score.f1:.2f}" if score.support else "-" for score in rows]
        groups.append(_Group(name, colour, [score.f1 for score in rows], notes))
    figure = _label_bars(groups, names, title, "F1", taxonomy)
    for axes in figure.axes:
        axes.set_xlim(0, 1.08)
    return figure


def confusion_figure(counts: Tensor, title: str, taxonomy: Taxonomy = BDD_OIA) -> Figure:
    """Plot the confusion matrix of the actions, with counts and the share of each row.

    Args:
        counts: int[A, A], rows true, columns predicted.
        title: of the figure.
        taxonomy: what the actions are called.

    Raises:
        ValueError: if it is not A by A, or a count is negative.
    """
    size = taxonomy.num_actions
    if counts.shape != (size, size) or bool((counts < 0).any()):
        raise ValueError(f"counts must be [{size}, {size}] and not negative, got {counts.tolist()}")
    numbers = counts.cpu().numpy()
    shares = numbers / np.maximum(numbers.sum(axis=1, keepdims=True), 1)
    figure = new_figure(_WIDTH * 0.7, _WIDTH * 0.65)
    axes = figure.add_subplot(xlabel="predicted", ylabel="true")
    axes.set_title(title, loc="left", color=INK)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(size), taxonomy.action_names)
    axes.set_yticks(range(size), taxonomy.action_names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.6 else INK
        axes.text(column, row - 0.08, f"{numbers[row, column]}", ha="center", va="center", color=colour, size=15)
        # A class that is never true has no shares: 0% would say that it was always missed.
        note = f"{share:.0%}" if numbers[row].any() else "-"
        axes.text(column, row + 0.2, note, ha="center", va="center", color=colour, size=10)
    figure.colorbar(picture, ax=axes, label="share of the row", shrink=0.85)
    return figure


def reliability_figure(pairs: Mapping[str, tuple[Tensor, Tensor]], title: str, num_bins: int = 10) -> Figure:
    """Plot predicted against observed probability of all classes together, with the number of predictions in each bin.

    The number beside a curve is the score ``ece``: the mean over classes of each class's own calibration error. The
    error of the pooled curve is smaller, because too high and too low predictions of different classes cancel in it.

    Args:
        pairs: name of a curve to float[N, C] probabilities in [0, 1] of C classes and bool[N, C] what is true; three
            at most.
        title: of the figure.
        num_bins: bins of equal width; empty ones are left out.

    Raises:
        ValueError: for no curve or too many, or a curve without claims or with another number of truths.
    """
    colours = _colours(pairs)
    figure = new_figure(_WIDTH * 0.7, _WIDTH * 0.8)
    figure.suptitle(title, x=0.01, ha="left", color=INK)
    rows = figure.add_gridspec(2, 1, height_ratios=(3, 1))
    axes = figure.add_subplot(rows[0], ylabel="share that is true", xlim=(0, 1), ylim=(0, 1))
    below = figure.add_subplot(rows[1], xlabel="claimed probability", ylabel="claims", xlim=(0, 1), yscale="log")
    axes.plot((0, 1), (0, 1), "--", color=INK, linewidth=1, label="perfect")
    bar_width = 0.8 / num_bins / len(pairs)
    for place, ((name, pair), colour) in enumerate(zip(pairs.items(), colours, strict=True)):
        curve, error = _reliability(name, *pair, num_bins)
        style, label = f"{'os^'[place]}-", f"{name}, ECE {error:.3f}"
        axes.plot(curve.claimed, curve.observed, style, color=colour, markersize=6, label=label, clip_on=False)
        bins = (curve.claimed * num_bins).long().clamp(0, num_bins - 1)
        left = bins / num_bins + 0.1 / num_bins + place * bar_width
        below.bar(left, curve.count, width=bar_width, align="edge", color=colour)
    below.set_ylim(bottom=0.7)  # a single claim is visible on the logarithmic axis
    axes.legend(frameon=False, loc="upper left")
    for part in (axes, below):
        _plain(part, "both")
    return figure


def _reliability(name: str, claims: Tensor, truths: Tensor, num_bins: int) -> tuple[CalibrationCurve, float]:
    """Compute the curve of all classes together, and the mean over classes of their own calibration errors."""
    if claims.ndim != 2 or claims.shape != truths.shape or not len(claims):
        raise ValueError(f"{name} must be two matrices of one shape, got {list(claims.shape)}, {list(truths.shape)}")
    claims, truths = claims.float().cpu(), truths.bool().cpu()
    curve = calibration_curve(claims.flatten(), truths.flatten(), num_bins)
    return curve, probability_scores(claims, truths, torch.arange(len(claims))[None]).ece.item()


def _colours(systems: Mapping[str, object]) -> tuple[str, ...]:
    if not 0 < len(systems) <= len(_SYSTEM_COLOURS):
        raise ValueError(f"one to {len(_SYSTEM_COLOURS)} systems can be told apart, got {list(systems)}")
    return _SYSTEM_COLOURS[: len(systems)]


def _count_group(name: str, colour: str, matrix: Tensor) -> _Group:
    counts = matrix.sum(dim=0).tolist()
    return _Group(name, colour, counts, [str(count) for count in counts])


def _label_bars(groups: Sequence[_Group], names: Sequence[str], title: str, unit: str, taxonomy: Taxonomy) -> Figure:
    """Draw the bars of actions above those of reasons, which are far rarer and have their own axis."""
    num_actions = taxonomy.num_actions
    row_height = _BAR_HEIGHT * (len(groups) + 0.8)
    figure = new_figure(_WIDTH, row_height * len(names) + _HEAD_HEIGHT)
    figure.suptitle(title, x=0.01, ha="left", color=INK)
    parts = figure.add_gridspec(2, 1, height_ratios=(num_actions, taxonomy.num_reasons))
    for part, start, stop in ((0, 0, num_actions), (1, num_actions, len(names))):
        axes = figure.add_subplot(parts[part], xlabel=unit if part else "")
        _draw_bars(axes, groups, names, range(start, stop))
        if not part:
            place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": len(groups)}
            axes.legend(frameon=False, borderaxespad=0.2, **place)
        else:
            _separate_kinds(axes, taxonomy)
    return figure


def _draw_bars(axes: Axes, groups: Sequence[_Group], names: Sequence[str], shown: range) -> None:
    height = 0.84 / len(groups)
    places = np.arange(len(shown))
    for i, group in enumerate(groups):
        lengths = [group.lengths[k] for k in shown]
        bars = axes.barh(
            places + (i + 0.5) * height - 0.42, lengths, height=height, color=group.colour, label=group.name
        )
        axes.bar_label(bars, [group.notes[k] for k in shown], padding=3, size=8, color=INK)
    axes.set_yticks(places, [names[k] for k in shown], size=9)
    axes.set_ylim(len(shown) - 0.45, -0.55)
    axes.margins(x=0.08)
    axes.tick_params(axis="y", length=0)
    _plain(axes, "x")


def _separate_kinds(axes: Axes, taxonomy: Taxonomy) -> None:
    """Draw a line between the reasons for one action and those for the next, or against it."""
    kinds = [(reason.action, reason.supports) for reason in taxonomy.reasons]
    for place in range(1, len(kinds)):
        if kinds[place] != kinds[place - 1]:
            axes.axhline(place - 0.5, color=INK, linewidth=0.8, alpha=0.35)


def _plain(axes: Axes, grid: str) -> None:
    axes.grid(axis=grid, alpha=0.3)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
