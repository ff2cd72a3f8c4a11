"""The files that a test of answers writes into the run folder beside its numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lvad.metrics.multilabel import confusion
from lvad.report.answer_figures import confusion_figure, distribution_figure, f1_figure, reliability_figure
from lvad.report.answers_file import ANSWERS, LabelMatrices, label_matrices, write_answers
from lvad.report.gallery import write_gallery
from lvad.report.label_tables import LabelScore, label_table, score_labels, write_label_csv
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.types import AnsweredScene, Table

GALLERY: Final = "gallery.html"
LABELS_CSV: Final = "labels.csv"


def write_driving_report(
    folder: Path,
    answered: Sequence[AnsweredScene],
    shown: Sequence[Tensor],
    scores: Mapping[str, float],
    taxonomy: Taxonomy = BDD_OIA,
) -> list[Path]:
    """Write the answers, a gallery of the first scenes, a table per label and the figures.

    Args:
        folder: of the run.
        answered: all scenes.
        shown: uint8[M, 3, H, W] of the first of them.
        scores: the headline of the gallery.
        taxonomy: what the labels are called.

    Returns:
        The files.
    """
    title = _title(folder, len(shown), len(answered))
    files = [
        write_answers(folder / ANSWERS, answered, taxonomy),
        write_gallery(folder / GALLERY, answered[: len(shown)], shown, title, scores, taxonomy),
    ]
    matrices = label_matrices(answered, len(taxonomy.labels))
    if not len(matrices.true):
        return files
    per_label = score_labels(matrices.true, matrices.predicted, taxonomy.labels)
    files.append(write_label_csv(folder / LABELS_CSV, per_label))
    figures = _figures(matrices, per_label, _claims(answered), taxonomy)
    return files + [_save(figure, folder / name) for name, figure in figures.items()]


def _figures(
    matrices: LabelMatrices,
    per_label: Sequence[LabelScore],
    claims: tuple[Tensor, Tensor] | None,
    taxonomy: Taxonomy,
) -> dict[str, Figure]:
    """Draw the figures of the labelled scenes, by the names of their files."""
    num_actions = taxonomy.num_actions
    counts = confusion(matrices.predicted[:, :num_actions].bool(), matrices.true[:, :num_actions].bool())
    left_out = f"; {counts.num_left_out} scenes with several actions, or none, left out"
    figures = {
        "label_distribution.png": distribution_figure(matrices.true, {"said": matrices.predicted}, "Labels", taxonomy),
        "label_f1.png": f1_figure({"model": per_label}, f"F1 per label, {len(matrices.true)} scenes", taxonomy),
        "action_confusion.png": confusion_figure(
            counts.single, f"Actions{left_out if counts.num_left_out else ''}", taxonomy
        ),
    }
    if claims is not None:
        figures["action_reliability.png"] = reliability_figure({"actions": claims}, "Probabilities of the actions")
    return figures


def _title(folder: Path, num_shown: int, num_scenes: int) -> str:
    """Make the gallery's title from stage and number of the run, without its path: the page may be passed on."""
    count = f"{num_scenes}" if num_shown == num_scenes else f"the first {num_shown} of {num_scenes}"
    return f"{'/'.join(folder.resolve().parts[-2:])}: what was answered, {count} test scenes"


def _claims(answered: Sequence[AnsweredScene]) -> tuple[Tensor, Tensor] | None:
    """Stack the probabilities of the actions of all labelled scenes, float[N, A], and the truth, bool[N, A]."""
    known = [s for s in answered if s.true_actions is not None and s.action_probabilities]
    if not known:
        return None
    return torch.tensor([s.action_probabilities for s in known]), torch.tensor([s.true_actions for s in known]).bool()


def label_tables(answered: Sequence[AnsweredScene], with_reasons: bool, taxonomy: Taxonomy = BDD_OIA) -> list[Table]:
    """Make Tables 2 and 3 of the paper; none where no scene has labels.

    Args:
        answered: all scenes.
        with_reasons: whether the answers name reasons.
        taxonomy: what the labels are called.
    """
    matrices = label_matrices(answered, len(taxonomy.labels))
    if not len(matrices.true):
        return []
    rows = score_labels(matrices.true, matrices.predicted, taxonomy.labels)
    kinds = [("Table 2: actions", "Action", rows[: taxonomy.num_actions])]
    kinds += [("Table 3: reasons", "Reason", rows[taxonomy.num_actions :])] if with_reasons else []
    return [
        label_table(title, kind, {r.label: r for r in part}, {"macro-F1": sum(r.f1 for r in part) / len(part)})
        for title, kind, part in kinds
    ]


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    return path
