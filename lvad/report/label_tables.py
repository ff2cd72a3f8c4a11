"""Scores of each label: one row per label, as CSV and as the paper's Tables 2 and 3."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from torch import Tensor
from torchmetrics.functional.classification import (
    multilabel_f1_score,
    multilabel_precision,
    multilabel_recall,
    multilabel_stat_scores,
)

from lvad.report.runs import write_atomically
from lvad.types import Table

_CSV_COLUMNS: Final = ("label", "support", "predicted", "precision", "recall", "f1")


class LabelScore(NamedTuple):
    """The scores of one label over N scenes; a ratio without a denominator is 0, as in the paper's Table 3."""

    label: str
    share: float
    """Share of the N scenes where the label is true."""
    support: int
    """Scenes where the label is true."""
    predicted: int
    """Scenes where the answer names the label."""
    precision: float
    recall: float
    f1: float


def score_labels(true: Tensor, predicted: Tensor, labels: Sequence[str]) -> list[LabelScore]:
    """Compute the scores of every label.

    Args:
        true: int[N, L] zeros and ones.
        predicted: int[N, L] likewise.
        labels: L names.

    Raises:
        ValueError: if the matrices are empty, or not both N by L.
    """
    if true.shape != predicted.shape or true.ndim != 2 or true.shape[1] != len(labels) or not len(true):
        shapes = f"true {list(true.shape)}, predicted {list(predicted.shape)}"
        raise ValueError(f"true and predicted must both be [N, {len(labels)}] with N > 0, got {shapes}")
    said, target = predicted.long().cpu(), true.long().cpu()
    counts = multilabel_stat_scores(said, target, len(labels), average=None)
    ratios = [
        ratio(said, target, len(labels), average=None, zero_division=0).tolist()
        for ratio in (multilabel_precision, multilabel_recall, multilabel_f1_score)
    ]
    num_true_said, num_false_said, _, _, support = counts.unbind(dim=1)  # true and false positives
    shares = (support / len(true)).tolist()
    num_said = (num_true_said + num_false_said).tolist()
    rows = zip(labels, shares, support.tolist(), num_said, *ratios, strict=True)
    return [LabelScore(*row) for row in rows]


def write_label_csv(path: Path, scores: Sequence[LabelScore]) -> Path:
    """Write ``label, support, predicted, precision, recall, f1``, the whole file or none of it; return the path."""
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(_CSV_COLUMNS)
    table.writerows([getattr(score, name) for name in _CSV_COLUMNS] for score in scores)
    write_atomically(path, lines.getvalue())
    return path


def label_table(
    title: str,
    kind: str,
    rows: Mapping[str, LabelScore],
    totals: Mapping[str, float] | None = None,
    floors: Mapping[str, float] | None = None,
) -> Table:
    """Make a table in the shape of the paper's Table 2 (actions) or Table 3 (reasons).

    Args:
        title: above the table.
        kind: heading of the first column, "Action" or "Reason".
        rows: name to what is known of the label; share and F1 are shown in percent.
        totals: name to an F1 over all labels in [0, 1], such as the mean.
        floors: name to the same F1 of an answer that looks at no picture, such as "always stop".
    """
    columns = (kind, "Test GT (%)", "Test GT (#)", "Test F1 score (%)")
    lines = [(name, _percent(row.share), str(row.support), _percent(row.f1)) for name, row in rows.items()]
    lines += [(name, "-", "-", _percent(f1)) for name, f1 in (totals or {}).items()]
    lines += [(f"floor: {name}", "-", "-", _percent(f1)) for name, f1 in (floors or {}).items()]
    return Table(title, columns, tuple(lines))


def label_comparison(runs: Mapping[str, Sequence[LabelScore]]) -> list[Table]:
    """Make the tables of how often each label is true and predicted, and of its F1 (the paper's Figures 8 and 9).

    Args:
        runs: name to the labels of a run; a run that names no reasons has the actions only.

    Returns:
        Two tables with a row per label that is true or said at all, and a column per run.
    """
    rows: dict[str, dict[str, LabelScore]] = {}
    for name, labels in runs.items():
        for score in labels:
            rows.setdefault(score.label, {})[name] = score
    rows = {label: each for label, each in rows.items() if any(s.support or s.predicted for s in each.values())}
    if not rows:
        return []
    said, f1 = [], []
    for label, scores in rows.items():
        true = next(iter(scores.values())).support
        said.append((label, str(true), *(str(scores[name].predicted) if name in scores else "-" for name in runs)))
        f1.append((label, *(_percent(scores[name].f1) if name in scores else "-" for name in runs)))
    return [
        Table("Labels: in how many scenes true and said (Fig. 8)", ("label", "true", *runs), tuple(said)),
        Table("F1 of each label, % (Fig. 9)", ("label", *runs), tuple(f1)),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
