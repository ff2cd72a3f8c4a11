"""Plots: sizes, refusals, and what stands in them; how they look was judged by eye."""

import pytest
import torch
from PIL import Image

from lvad.report.plot_style import pixels
from lvad.report.run_plots import plot_confusion_and_roc, plot_loss, plot_reward
from lvad.types import MatchProbabilities


def test_curve_is_a_picture(tmp_path):
    path = plot_reward([1, 2, 3], [0.1, 0.2, 0.3], [0.2, 0.3, 0.4], tmp_path / "curve.png", held_out={0: 0.1, 3: 0.3})
    assert Image.open(path).size == (960, 540)
    with pytest.raises(ValueError, match="as long"):
        plot_reward([1], [0.1, 0.2], [0.1], tmp_path / "curve.png")


def test_losses_stand_beside_the_monitored_score_where_there_is_one(tmp_path):
    losses = [(step, 1 / step) for step in range(1, 50)]
    history = {10: {"val/loss": 0.5, "val/auroc": 0.7}, 40: {"val/loss": 0.4, "val/auroc": 0.8}}
    both = Image.open(plot_loss(losses, history, "val/auroc", tmp_path / "both.png"))
    assert both.size == (1320, 480)
    for score in (None, "val/loss", "val/unknown"):
        assert Image.open(plot_loss(losses, history, score, tmp_path / "one.png")).size == (660, 480)


def test_confusion_and_roc_show_counts_and_area():
    decisions = MatchProbabilities(
        torch.tensor([0.9, 0.8, 0.4, 0.6, 0.1]), torch.tensor([True, True, True, False, False])
    )
    figure = plot_confusion_and_roc(decisions, "val")
    matrix, roc = figure.axes
    # Rows true, columns predicted: of 2 mismatches 1 is called a match, of 3 matches 1 is missed.
    assert [int(text.get_text()) for text in matrix.texts] == [1, 1, 1, 2]
    # Of 3 x 2 pairs of a match and a mismatch only (0.4, 0.6) is in the wrong order.
    assert roc.get_legend().get_texts()[0].get_text() == "AUROC 0.833"
    assert pixels(figure).shape == (400, 800, 3)
