"""Comparison of runs of RLOOPolicy or CLIPReward by the scores of their test scenes, and by their logged curves."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from matplotlib.figure import Figure

from lvad.data.ledger import read_ledger
from lvad.errors import DataError
from lvad.metrics.intervals import Interval, bootstrap_ratio
from lvad.report.compare_answers import excludes_zero, label_budget
from lvad.report.comparison_files import label_count, label_line
from lvad.report.comparison_page import write_comparison_page
from lvad.report.plot_style import SERIES_COLOURS, new_figure
from lvad.report.runs import markdown, read_metrics, write_atomically
from lvad.report.scene_scores import SCORED, read_scene_scores
from lvad.report.tensorboard_events import read_curves
from lvad.types import SceneScores, Table

COMPARISON: Final = "comparison"
CURVES: Final = ("val/reward", "val/judge", "val/fact_precision", "train/kl", "val/auroc", "val/loss")
"""The curves to draw, where any of the runs logged them."""

_SHOWN_IDS: Final = 3


class ScoredRun(NamedTuple):
    """A tested run with the scores of each scene."""

    name: str
    folder: Path
    scenes: dict[str, SceneScores]
    """The scores of each scene by its id."""
    metrics: Mapping[str, float | None]
    labels: int | None
    """Labelled scenes over all its stages; None where there is no ledger."""


class ScoredComparison(NamedTuple):
    """Scores of runs on the same test scenes, and paired differences."""

    num_scenes: int
    runs: list[ScoredRun]
    """The differences are the first one's minus each other's."""
    scores: dict[str, dict[str, Interval]]
    """Every score by run, then by its name."""
    differences: dict[str, dict[str, Interval]]
    """The first run minus this one, paired by scene."""


def read_scored_run(folder: Path, name: str) -> ScoredRun:
    """Read a run in whose folder ``lvad test`` wrote ``scored.jsonl``.

    Raises:
        DataError: if the file cannot be read.
    """
    scenes = {scene.id: scene for scene in read_scene_scores(folder / SCORED)}
    return ScoredRun(name, folder, scenes, read_metrics(folder), label_budget(read_ledger(folder)).labels)


def compare_scored_runs(runs: Sequence[ScoredRun]) -> ScoredComparison:
    """Compute the scores of each run on the test scenes, and the first run's minus each other's, paired by scene.

    Raises:
        DataError: if two runs were tested on other scenes, or have no score in common.
    """
    first, *others = runs
    ids = list(first.scenes)
    for other in others:
        _check_scenes(first, other)
    pairs = {run.name: _pairs(run, ids) for run in runs}
    differences = {}
    for other in others:
        shared = [score for score in pairs[first.name] if score in pairs[other.name]]
        if not shared:
            raise DataError(f"{first.name!r} and {other.name!r} have no score in common: they are of other stages")
        differences[other.name] = {
            score: bootstrap_ratio(*pairs[first.name][score], less=pairs[other.name][score]) for score in shared
        }
    scores = {name: {score: bootstrap_ratio(*pair) for score, pair in own.items()} for name, own in pairs.items()}
    return ScoredComparison(len(ids), list(runs), scores, differences)


def scored_tables(found: ScoredComparison) -> list[Table]:
    """Make the tables of test scores, of differences, and of validation scores before and after the fit."""
    names = list(dict.fromkeys(score for own in found.scores.values() for score in own))
    tables = [
        Table(
            f"{found.num_scenes} test scenes (95 % interval)",
            ("score", *found.scores),
            (
                ("labels", *(label_count(run.labels) for run in found.runs)),
                *((score, *(_cell(own.get(score)) for own in found.scores.values())) for score in names),
            ),
        )
    ]
    if found.differences:
        rows = [(score, *(_cell(d.get(score), "+") for d in found.differences.values())) for score in names]
        title = f"{found.runs[0].name} minus each other, paired by scene (95 % interval); * excludes 0"
        tables.append(Table(title, ("score", *(f"- {name}" for name in found.differences)), tuple(rows)))
    return [*tables, _validation(found.runs)]


def scored_text(found: ScoredComparison) -> str:
    """Write the tables as Markdown, and whether the runs used equally many labels."""
    return "\n".join([*map(markdown, scored_tables(found)), label_line({run.name: run.labels for run in found.runs})])


def write_scored_comparison(folder: Path, found: ScoredComparison) -> list[Path]:
    """Write ``comparison.md``, ``.json``, ``.html`` and, where the runs logged curves, ``.png``; returns the files."""
    whole = {
        "num_scenes": found.num_scenes,
        "folders": {run.name: str(run.folder) for run in found.runs},
        "labels": {run.name: run.labels for run in found.runs},
        "scores": {name: _numbers(own) for name, own in found.scores.items()},
        "differences": {name: _numbers(own) for name, own in found.differences.items()},
    }
    files = [folder / f"{COMPARISON}.{kind}" for kind in ("md", "json")]
    write_atomically(files[0], scored_text(found))
    write_atomically(files[1], json.dumps(whole, indent=1) + "\n")
    figure = curves_figure({run.name: read_curves(run.folder, CURVES) for run in found.runs})
    if figure is not None:
        files.append(folder / f"{COMPARISON}.png")
        figure.savefig(files[-1], dpi=120)
    line = label_line({run.name: run.labels for run in found.runs})
    return [*files, write_comparison_page(folder, found.scores, scored_tables(found), line, figure)]


def curves_figure(curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]) -> Figure | None:
    """Plot the runs' curves over each other, a panel for each score that any of them logged; None where none did.

    Args:
        curves: run to score to its (step, value) points.
    """
    shown = [score for score in CURVES if any(score in own for own in curves.values())]
    if not shown:
        return None
    columns = min(3, len(shown))
    num_rows = -(-len(shown) // columns)
    figure = new_figure(4.2 * columns, 3.2 * num_rows + 0.5)
    for place, score in enumerate(shown, start=1):
        axes = figure.add_subplot(num_rows, columns, place, title=score, xlabel="optimizer step")
        for number, (name, own) in enumerate(curves.items()):
            steps, values = zip(*own.get(score, [(float("nan"), float("nan"))]), strict=True)
            mark = "o-" if score.startswith("val/") else "-"
            label = name if place == 1 else None
            axes.plot(
                steps, values, mark, color=SERIES_COLOURS[number % len(SERIES_COLOURS)], markersize=4, label=label
            )
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=4)
    return figure


def _check_scenes(first: ScoredRun, other: ScoredRun) -> None:
    for run, source in ((other, first), (first, other)):
        if lacks := [name for name in source.scenes if name not in run.scenes]:
            problem = f"{run.name!r} lacks {len(lacks)} scenes of {source.name!r}, such as {lacks[:_SHOWN_IDS]}"
            remedy = "test both on the same scenes (the same data.source.root, data.split.num_scenes and data.seed)"
            raise DataError(f"runs are compared on the same scenes, but {problem}; {remedy}")


def _pairs(run: ScoredRun, ids: Sequence[str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Stack the numerators and denominators, float64[N], of the scores that every scene has, unless all are 0."""
    rows = [run.scenes[name].scores for name in ids]
    shared = [score for score in rows[0] if all(score in row for row in rows)]
    columns = {score: torch.tensor([row[score] for row in rows], dtype=torch.float64).T for score in shared}
    return {score: (pair[0], pair[1]) for score, pair in columns.items() if bool(pair[1].sum() > 0)}


def _validation(runs: Sequence[ScoredRun]) -> Table:
    names = sorted({n for run in runs for n in run.metrics if n.startswith("val/") and not n.endswith("_start")})
    rows = []
    for name in names:
        values = [(run.metrics.get(f"{name}_start"), run.metrics.get(name)) for run in runs]
        rows.append((name, *(" -> ".join(f"{v:.3f}" for v in pair if v is not None) or "-" for pair in values)))
    return Table("Validation: start -> best checkpoint", ("score", *(run.name for run in runs)), tuple(rows))


def _cell(value: Interval | None, sign: str = "") -> str:
    if value is None:
        return "-"
    star = " *" if sign and excludes_zero(value) else ""
    return f"{value.mean:{sign}.3f} ({value.low:{sign}.3f} to {value.high:{sign}.3f}){star}"


def _numbers(scores: Mapping[str, Interval]) -> dict[str, Any]:
    return {score: value._asdict() for score, value in scores.items()}
