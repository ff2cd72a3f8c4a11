"""Matching scores against scikit-learn, and what no image-blind score can reach."""

import pytest
import torch
from sklearn import metrics as sk

from lvad.metrics.matching import Matches, MatchTable, decision_scores, ranking_scores


def random_matches(seed, num_scenes=60, num_texts=21):
    generator = torch.Generator().manual_seed(seed)
    often = torch.rand(num_texts, generator=generator) * 0.6
    is_true = torch.rand(num_scenes, num_texts, generator=generator) < often
    is_false = ~is_true & (torch.rand(is_true.shape, generator=generator) < 0.9)
    scores = torch.rand(is_true.shape, generator=generator) + 0.3 * is_true
    return Matches((scores * 20).round() / 20, is_true, is_false)  # with ties


@pytest.mark.parametrize("seed", range(5))
def test_ranking_is_scikit_learns(seed):
    matches = random_matches(seed)
    clear = matches.is_true | matches.is_false
    found = ranking_scores(matches)
    assert found["auroc"].item() == pytest.approx(sk.roc_auc_score(matches.is_true[clear], matches.scores[clear]))
    frequency = matches.is_true.float().mean(0).expand_as(matches.scores)
    assert found["auroc_floor"].item() == pytest.approx(sk.roc_auc_score(matches.is_true[clear], frequency[clear]))
    columns = [c for c in range(21) if matches.is_true[:, c].any() and matches.is_false[:, c].any()]
    each = [sk.roc_auc_score(matches.is_true[clear[:, c], c], matches.scores[clear[:, c], c]) for c in columns]
    assert found["auroc_per_text"].item() == pytest.approx(sum(each) / len(each))
    assert found["score_right"].item() == pytest.approx(matches.scores[matches.is_true].mean().item())
    assert found["score_wrong"].item() == pytest.approx(matches.scores[matches.is_false].mean().item())


@pytest.mark.parametrize("seed", range(5))
def test_decisions_are_scikit_learns(seed):
    generator = torch.Generator().manual_seed(seed)
    p, is_match = torch.rand(300, generator=generator), torch.rand(300, generator=generator) < 0.4
    found, said = decision_scores(p, is_match), p > 0.5
    assert found["accuracy"].item() == pytest.approx(sk.accuracy_score(is_match, said))
    assert found["precision"].item() == pytest.approx(sk.precision_score(is_match, said))
    assert found["recall"].item() == pytest.approx(sk.recall_score(is_match, said))
    assert found["f1"].item() == pytest.approx(sk.f1_score(is_match, said))


def test_the_papers_confusion_matrices_give_the_papers_scores():
    """Appendix B.4: TP 91, TN 76, FP 24, FN 9 on validation and 188, 162, 42, 15 on test.

    Its last digits are rounded now up, now down.
    """
    for counts, expected in (
        ((91, 76, 24, 9), (0.8350, 0.7913, 0.9100, 0.8466)),
        ((188, 162, 42, 15), (0.8599, 0.8174, 0.9261, 0.8683)),
    ):
        tp, tn, fp, fn = counts
        p = torch.tensor([0.9] * tp + [0.1] * tn + [0.9] * fp + [0.1] * fn)
        found = decision_scores(p, torch.tensor([True] * tp + [False] * (tn + fp) + [True] * fn))
        assert [value.item() for value in found.values()] == pytest.approx(expected, abs=1.1e-4)


def test_who_looks_at_no_image_has_the_floor_at_most():
    matches = random_matches(0, num_scenes=400)
    frequency = matches.is_true.float().mean(0).expand_as(matches.scores)
    found = ranking_scores(matches._replace(scores=frequency))
    assert found["auroc"] == found["auroc_floor"] > 0.6
    assert found["auroc_per_text"] == 0.5


def test_batches_make_one_table():
    matches, table = random_matches(1), MatchTable()
    ids = [str(i) for i in range(60)]
    for start in range(0, 60, 25):
        table.update(ids[start : start + 25], *(part[start : start + 25] for part in matches))
    table.update(ids[:9], *(part[:9].flip(0) for part in matches))  # scenes that a loader repeats count once
    for part, whole in zip(table.compute(), matches, strict=True):
        assert torch.equal(part, whole)


def test_scenes_of_one_kind_have_no_auroc():
    with pytest.raises(ValueError, match="true and false pairs"):
        ranking_scores(Matches(torch.rand(2, 3), torch.ones(2, 3).bool(), torch.zeros(2, 3).bool()))
