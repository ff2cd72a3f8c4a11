"""The files of a comparison of answers: tables, flat rows, a plot and a page."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from lvad.metrics.intervals import Interval
from lvad.report.compare_answers import Comparison, Scores, excludes_zero
from lvad.report.comparison_page import write_comparison_page
from lvad.report.label_tables import label_comparison
from lvad.report.plot_style import INK, SERIES_COLOURS, new_figure
from lvad.report.runs import markdown, write_atomically
from lvad.types import Table

COMPARISON: Final = "comparison"

_ACTIONS: Final = {
    "action_macro_f1": "macro-F1",
    "action_micro_f1": "micro-F1",
    "action_f1_all": "F1_all",
    "action_exact_match": "exact match",
    "action_bit_accuracy": "bit accuracy",
    "parse_failure": "parse failure",
}
_REASONS: Final = {"reason_macro_f1": "macro-F1", "reason_f1_all": "F1_all"}
_PROBABILITIES: Final = {
    "action_auroc": "action AUROC",
    "action_ece": "action ECE",
    "reason_auroc": "reason AUROC",
    "reason_ece": "reason ECE",
}
_DASHES: Final = ("-", ":", "--")


def comparison_tables(found: Comparison) -> list[Table]:
    """Make the tables of scores with 95 % intervals, of paired differences, and of the labels that each run used."""
    rows = {**found.arms, **found.floors}
    tables = [
        _scores_table(f"{title}, {found.num_scenes} test scenes, % (95 % interval)", columns, rows, _labels(found))
        for title, columns in _tables(found).items()
        if any(score in scores for score in columns for scores in found.arms.values())
    ]
    return [*tables, *label_comparison(found.labels), _differences_table(found), _budgets_table(found)]


def comparison_text(found: Comparison) -> str:
    """Write the tables as Markdown, and whether the runs used equally many labels."""
    return "\n".join([*map(markdown, comparison_tables(found)), label_line(_labels(found))])


def comparison_rows(found: Comparison) -> Iterator[dict[str, Any]]:
    """Yield one flat row per run or floor and score, and per difference and score; NaN is None."""
    for kind, systems in (("arm", found.arms), ("floor", found.floors), ("difference", found.differences)):
        is_difference = kind == "difference"
        for name, scores in systems.items():
            for score, value in scores.items():
                yield {
                    "kind": kind,
                    "name": found.first if is_difference else name,
                    "minus": name if is_difference else None,
                    "score": score,
                    **{part: _finite(number) for part, number in value._asdict().items()},
                    "excludes_zero": excludes_zero(value) if is_difference else None,
                }


def write_comparison(folder: Path, found: Comparison) -> list[Path]:
    """Write ``comparison.md``, ``.csv``, ``.json``, ``.png`` and ``.html``.

    Args:
        folder: made if missing.
        found: the comparison.

    Returns:
        The files.
    """
    rows = list(comparison_rows(found))
    lines = io.StringIO()
    table = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    whole = {
        "num_scenes": found.num_scenes,
        "folders": {name: str(path) for name, path in found.folders.items()},
        "labelled_scenes": {name: budget._asdict() for name, budget in found.budgets.items()},
        "scores": rows,
    }
    texts = {
        "md": comparison_text(found),
        "csv": lines.getvalue(),
        "json": json.dumps(whole, indent=1, allow_nan=False) + "\n",
    }
    files = [folder / f"{COMPARISON}.{kind}" for kind in (*texts, "png")]
    for file, text in zip(files, texts.values(), strict=False):
        write_atomically(file, text)
    figure = comparison_figure(found)
    figure.savefig(files[-1], dpi=120)
    return [
        *files,
        write_comparison_page(folder, found.arms, comparison_tables(found), label_line(_labels(found)), figure),
    ]


def comparison_figure(found: Comparison) -> Figure:
    """Plot a bar with its interval for each run and score; floors are lines across the bars."""
    shown = {s: name for s, name in _drawn(found).items() if any(s in scores for scores in found.arms.values())}
    figure = new_figure(max(8.0, 1.15 * len(shown)), 5.0)
    axes = figure.add_subplot(ylabel="%", ylim=(0, 100))
    axes.set_title(f"{found.num_scenes} test scenes, 95 % intervals over scenes", loc="left", color=INK)
    width = 0.8 / len(found.arms)
    for place, (name, scores) in enumerate(found.arms.items()):
        left = np.arange(len(shown)) - 0.4 + (place + 0.5) * width
        mean, low, high = _columns(scores, list(shown))
        colour = SERIES_COLOURS[place % len(SERIES_COLOURS)]
        # A percentile interval need not hold the score itself: a macro-F1 of draws leans down.
        reach = np.stack([np.maximum(mean - low, 0), np.maximum(high - mean, 0)])
        axes.bar(left, mean, width * 0.94, yerr=reach, color=colour, label=name, ecolor=INK, capsize=2)
    for (name, scores), dashes in zip(found.floors.items(), _DASHES, strict=True):
        places = np.arange(len(shown))
        axes.hlines(_columns(scores, list(shown))[0], places - 0.44, places + 0.44, INK, dashes, label=f"floor: {name}")
    axes.set_xlim(-0.6, len(shown) - 0.4)
    axes.set_xticks(range(len(shown)), list(shown.values()), size=9)
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(frameon=False, loc="outside lower center", ncols=4)
    return figure


def _each_action(found: Comparison) -> dict[str, str]:
    return {f"action_f1/{action}": action for action in found.taxonomy.action_names}


def _tables(found: Comparison) -> dict[str, dict[str, str]]:
    return {
        "Actions": _ACTIONS,
        "F1 of each action": _each_action(found),
        "Reasons": _REASONS,
        "Probabilities": _PROBABILITIES,
    }


def _drawn(found: Comparison) -> dict[str, str]:
    return {
        **{score: f"{name}\n(actions)" for score, name in _ACTIONS.items() if score != "parse_failure"},
        **{score: f"F1\n{name}" for score, name in _each_action(found).items()},
        **{score: f"{name}\n(reasons)" for score, name in _REASONS.items()},
    }


def _columns(scores: Scores, names: Sequence[str]) -> np.ndarray:
    """Stack means, lows and highs in percent, float64[3, S]; NaN where there is no score."""
    nothing = Interval(math.nan, math.nan, math.nan)
    return 100 * np.array([scores.get(name, nothing) for name in names], dtype=np.float64).T


def _labels(found: Comparison) -> dict[str, int | None]:
    return {name: budget.labels for name, budget in found.budgets.items()}


def _scores_table(
    title: str, columns: Mapping[str, str], rows: Mapping[str, Scores], labels: Mapping[str, int | None]
) -> Table:
    known = {score: name for score, name in columns.items() if any(score in scores for scores in rows.values())}
    cells = [
        (name, label_count(labels.get(name, 0)), *(_cell(scores.get(score)) for score in known))
        for name, scores in rows.items()  # floors have learnt from none
    ]
    return _aligned(title, ("", "labels", *known.values()), cells)


def _differences_table(found: Comparison) -> Table:
    columns = {score: name for part in _tables(found).values() for score, name in part.items()}
    shown = [score for score in columns if any(score in scores for scores in found.differences.values())]
    cells = [(score, *(_difference(scores.get(score)) for scores in found.differences.values())) for score in shown]
    title = f"{found.first} minus each other, paired by scene, % (95 % interval); * excludes 0"
    return _aligned(title, ("score", *(f"- {name}" for name in found.differences)), cells)


def _budgets_table(found: Comparison) -> Table:
    cells = [
        (name, label_count(budget.labels), str(budget.train), str(budget.val), str(found.folders[name]))
        for name, budget in found.budgets.items()
    ]
    title = "Labelled scenes over all stages of each run, their rewards included, each scene once"
    return _aligned(title, ("", "labels", "for training", "for validation", "run"), cells)


def label_count(count: int | None) -> str:
    """Write a number of labels; a question mark where it is unknown."""
    return "?" if count is None else f"{count:,}"


def label_line(labels: Mapping[str, int | None]) -> str:
    """Say whether runs used equally many labels over all their stages."""
    counts = ", ".join(f"{name} {label_count(count)}" for name, count in labels.items())
    if unknown := [name for name, count in labels.items() if count is None]:
        return f"Labels are not known of {', '.join(unknown)}, which has no ledger.json: {counts}.\n"
    if len(set(labels.values())) == 1:
        return f"Labels are equal over all stages: {counts}.\n"
    return f"Labels DIFFER over all stages: {counts}. The runs are not compared at the same cost.\n"


def _aligned(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Make a table whose columns are as wide as their widest cell, so that it reads well as plain text too."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    padded = [tuple(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (columns, *rows)]
    return Table(title, padded[0], tuple(padded[1:]))


def _cell(value: Interval | None) -> str:
    return "-" if value is None or math.isnan(value.mean) else _percent(value, "")


def _difference(value: Interval | None) -> str:
    if value is None or math.isnan(value.mean):
        return "-"
    return f"{_percent(value, '+')}{' *' if excludes_zero(value) else ''}"


def _percent(value: Interval, sign: str) -> str:
    mean, low, high = (100 * number for number in value)
    return f"{mean:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
