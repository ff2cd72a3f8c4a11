"""What is drawn is what was counted."""

import numpy as np
import pytest
import torch

from lvad.metrics.driving import Answers, driving_scores
from lvad.report.answer_figures import confusion_figure, distribution_figure, f1_figure, reliability_figure
from lvad.report.label_tables import score_labels
from lvad.taxonomy import BDD_OIA

GENERATOR = torch.Generator().manual_seed(0)
TRUE = torch.randint(0, 2, (40, 25), generator=GENERATOR)
SAID = torch.randint(0, 2, (40, 25), generator=GENERATOR)


def bars(axes, group):
    return [patch.get_width() for patch in axes.containers[group]]


def test_bars_are_as_long_as_labels_are_frequent():
    actions, reasons = distribution_figure(TRUE, {"said": SAID}, "Labels").axes
    for group, matrix in enumerate((TRUE, SAID)):
        assert bars(actions, group) + bars(reasons, group) == matrix.sum(0).tolist()
    names = [text.get_text() for axes in (actions, reasons) for text in axes.get_yticklabels()]
    assert names == list(BDD_OIA.labels)


def test_bars_of_f1_are_the_scores_and_name_their_support():
    scores = score_labels(TRUE, SAID, BDD_OIA.labels)
    actions, reasons = f1_figure({"model": scores}, "F1").axes
    assert bars(actions, 0) + bars(reasons, 0) == pytest.approx([score.f1 for score in scores])
    assert actions.get_yticklabels()[1].get_text() == f"stop  (n={scores[1].support})"


def test_a_confusion_shows_its_counts_and_the_share_of_each_row():
    counts = torch.arange(16).reshape(4, 4)
    axes = confusion_figure(counts, "Actions").axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert texts[::2] == [str(n) for n in range(16)]
    assert texts[1] == "0%"
    assert texts[11] == f"{5 / 22:.0%}"  # 5 of 4 + 5 + 6 + 7
    drawn = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(drawn, counts / counts.sum(1, keepdim=True))
    assert [text.get_text() for text in axes.get_xticklabels()] == list(BDD_OIA.action_names)


def test_a_row_without_scenes_is_empty_and_not_a_division():
    counts = torch.zeros(BDD_OIA.num_actions, BDD_OIA.num_actions, dtype=torch.long)
    counts[1, 2] = 3
    axes = confusion_figure(counts, "").axes[0]
    np.testing.assert_allclose(np.asarray(axes.images[0].get_array()), counts / 3)
    shares = [text.get_text() for text in axes.texts][1::2]
    assert shares == ["-"] * 4 + ["0%", "0%", "100%", "0%"] + ["-"] * 8


def test_a_reliability_curve_by_hand():
    """Ten claims of 0.85 of which 7 are true, ten of 0.15 of which 3 are: off by 0.15 everywhere, so ECE 0.15."""
    claims = torch.tensor([0.85] * 10 + [0.15] * 10)
    truths = torch.tensor([True] * 7 + [False] * 3 + [True] * 3 + [False] * 7)
    axes, below = reliability_figure({"actions": (claims[:, None], truths[:, None])}, "Reliability").axes
    curve = next(line for line in axes.lines if str(line.get_label()).startswith("actions"))
    np.testing.assert_allclose(curve.get_xydata(), [[0.15, 0.3], [0.85, 0.7]], atol=1e-6)
    assert curve.get_label() == "actions, ECE 0.150"
    assert [patch.get_height() for patch in below.patches] == [10, 10]


def test_the_number_beside_a_reliability_curve_is_the_score():
    """Two classes claim 0.5, one is always true and one never: each is off by 0.5, the pooled curve by nothing."""
    claims, truths = torch.full((10, 4), 0.5), torch.tensor([[1, 0, 1, 0]] * 10)
    axes, _ = reliability_figure({"actions": (claims, truths.bool())}, "Reliability").axes
    curve = next(line for line in axes.lines if str(line.get_label()).startswith("actions"))
    np.testing.assert_allclose(curve.get_xydata(), [[0.5, 0.5]])
    scores = driving_scores(Answers(truths, truths, torch.ones(10).bool(), action_probabilities=claims))
    assert scores["action_ece"].item() == 0.5
    assert curve.get_label() == "actions, ECE 0.500"


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"said must be \[40, 25\]"):
        distribution_figure(TRUE, {"said": SAID[:3]}, "")
    with pytest.raises(ValueError, match="one to 3 systems"):
        distribution_figure(TRUE, {str(i): SAID for i in range(4)}, "")
    with pytest.raises(ValueError, match="same scenes"):
        f1_figure(
            {"a": score_labels(TRUE, SAID, BDD_OIA.labels), "b": score_labels(TRUE[:5], SAID[:5], BDD_OIA.labels)}, ""
        )
    with pytest.raises(ValueError, match="25 labels in their order"):
        f1_figure({"a": score_labels(TRUE, SAID, BDD_OIA.labels)[::-1]}, "")
    with pytest.raises(ValueError, match="not negative"):
        confusion_figure(-torch.ones(4, 4), "")
    with pytest.raises(ValueError, match="two matrices of one shape"):
        reliability_figure({"a": (torch.rand(3, 1), torch.ones(2, 1).bool())}, "")
