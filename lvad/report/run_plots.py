"""Plots of one run: reward and loss over its steps, confusion matrix and ROC curve. They read no training state."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torchmetrics.functional.classification import binary_auroc, binary_confusion_matrix, binary_roc

from lvad.report.plot_style import BLUE, INK, ORANGE, finish_axes, new_figure
from lvad.types import MatchProbabilities


def plot_reward(
    steps: Sequence[int],
    mean: Sequence[float],
    best: Sequence[float],
    path: Path,
    held_out: Mapping[int, float] | None = None,
) -> Path:
    """Plot the reward over the optimizer steps and save it.

    Args:
        steps: S optimizer steps.
        mean: S mean rewards of the training completions.
        best: S means over scenes of the best reward among K completions.
        path: a ``.png`` to write.
        held_out: step to mean reward on held-out scenes.

    Returns:
        The path.

    Raises:
        ValueError: if the three sequences differ in length.
    """
    if not len(steps) == len(mean) == len(best):
        raise ValueError(f"steps, mean and best must be as long, got {len(steps)}, {len(mean)}, {len(best)}")
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot(xlabel="optimizer step", ylabel="reward")
    for values, name, colour in ((best, "best of K", ORANGE), (mean, "mean of K", BLUE)):
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
        axes.plot(steps, _running_mean(values), color=colour, linewidth=2, label=f"training, {name}")
    if held_out:
        at = sorted(held_out)
        axes.plot(at, [held_out[s] for s in at], "o--", color=INK, markersize=4, label="held-out")
    finish_axes(axes)
    figure.savefig(path, dpi=120)
    return path


def plot_loss(
    losses: Sequence[tuple[int, float]],
    history: Mapping[int, Mapping[str, float]],
    score: str | None,
    path: Path,
    what: str = "loss",
) -> Path:
    """Plot training and validation loss over the optimizer steps, and beside them the score that is monitored.

    Args:
        losses: step and training loss.
        history: step to validation scores, of which ``val/loss`` and the monitored one are drawn.
        score: name of the monitored score; None draws none.
        path: a ``.png`` to write.
        what: what the loss is a number of, its title; a colon or a bracket begins its second line.

    Returns:
        The path.
    """
    shown = [name for name in dict.fromkeys([score]) if name and name != "val/loss" and _series(history, name)]
    figure = new_figure(5.5 * (1 + len(shown)), 4)
    axes = figure.add_subplot(1, 1 + len(shown), 1, xlabel="optimizer step", ylabel="loss")
    axes.set_title("\n(".join(what.replace(": ", ":\n", 1).split(" (", 1)), fontsize=10, loc="left")
    steps, values = [step for step, _ in losses], [value for _, value in losses]
    axes.plot(steps, values, color=BLUE, alpha=0.25, linewidth=1)
    axes.plot(steps, _running_mean(values), color=BLUE, linewidth=2, label="training")
    if held_out := _series(history, "val/loss"):
        axes.plot(*zip(*held_out, strict=True), "o-", color=ORANGE, markersize=4, label="validation")
    finish_axes(axes)
    for i, name in enumerate(shown):
        beside = figure.add_subplot(1, 1 + len(shown), 2 + i, xlabel="optimizer step", ylabel=name)
        beside.set_title("what chooses the checkpoint", fontsize=10, loc="left")
        beside.plot(*zip(*_series(history, name), strict=True), "o-", color=INK, markersize=4, label=name)
        finish_axes(beside)
    figure.savefig(path, dpi=120)
    return path


def plot_confusion_and_roc(decisions: MatchProbabilities, title: str) -> Figure:
    """Draw the confusion matrix at P > 0.5 and the ROC curve (Fig. 11 of the paper).

    Args:
        decisions: pairs of both kinds.
        title: of the figure.
    """
    p, target = decisions.probabilities.float().cpu(), decisions.is_match.long().cpu()
    figure = new_figure(8, 4)
    figure.suptitle(title)
    counts = binary_confusion_matrix(p, target)
    names = ("no match", "match")
    axes = figure.add_subplot(121, xlabel="predicted", ylabel="true")
    axes.imshow(counts.numpy(), cmap="Blues", vmin=0, vmax=int(counts.sum(1).max()))
    axes.set_xticks(range(2), names)
    axes.set_yticks(range(2), names, rotation=90, va="center")
    dark = counts.max() * 0.6
    for (row, column), count in np.ndenumerate(counts.numpy()):
        axes.text(column, row, str(count), ha="center", va="center", color="white" if count > dark else INK, size=14)
    false_rate, true_rate, _ = binary_roc(p, target)
    beside = figure.add_subplot(122, xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    beside.plot(false_rate, true_rate, color=BLUE, linewidth=2, label=f"AUROC {binary_auroc(p, target):.3f}")
    beside.plot((0, 1), (0, 1), "--", color=INK, linewidth=1, label="chance")
    finish_axes(beside)
    return figure


def _series(history: Mapping[int, Mapping[str, float]], name: str) -> list[tuple[int, float]]:
    return [(step, scores[name]) for step, scores in sorted(history.items()) if name in scores]


def _running_mean(values: Sequence[float]) -> np.ndarray:
    """Compute the mean over the last tenth of the run, or over all values so far where they are fewer."""
    window = max(1, len(values) // 10)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(0, end - window)
    return (sums[end] - sums[start]) / (end - start)
