"""Across folds, calibrated, and with both sights of a scene."""

import pytest
import torch

from lvad.metrics.logistic import Logistic
from lvad.objectives.reader_fit import (
    SceneFeatures,
    cross_fit,
    fit_calibration,
    folds_of,
    label_probabilities,
    log_confidence,
    probability_right,
)
from lvad.taxonomy import BDD_OIA


def made_up(num, generator, num_terms=6):
    """Scenes whose first four terms are their actions, seen in single descriptions with some noise."""
    labels = torch.zeros(num, 25, dtype=torch.float64)
    labels[:, :4] = (torch.rand(num, 4, generator=generator) > 0.5).double()
    rows = []
    for flip in (False, True):
        actions = labels[:, list(BDD_OIA.mirrored_labels)][:, :4] if flip else labels[:, :4]
        noise = torch.rand(num, 3, num_terms, generator=generator) < 0.1
        clean = torch.cat([actions, torch.zeros(num, num_terms - 4)], 1).bool()
        rows.append((clean.unsqueeze(1) ^ noise).double())
    single = torch.stack(rows)
    return SceneFeatures(single, single.mean(2)), labels


def test_folds_hang_on_names_alone_and_keep_recordings_whole():
    groups = [f"drive-{i // 2}" for i in range(20)]
    folds = folds_of(groups, 5)
    assert folds[::2] == folds[1::2]
    assert sorted(folds[::2]) == sorted([*range(5)] * 2)
    assert folds_of(groups[::-1], 5) == folds[::-1]


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_scenes_own_label_does_not_reach_the_model_that_judges_it(rounds):
    generator = torch.Generator().manual_seed(0)
    (said, labels), (other, _) = made_up(20, generator), made_up(10, generator)
    folds = torch.tensor(folds_of([str(i) for i in range(20)], 4))
    flipped = labels.clone()
    flipped[3] = 1 - flipped[3]
    before, after = (cross_fit(said, rows, folds, other, threshold=0.6, rounds=rounds) for rows in (labels, flipped))
    own = int(folds[3])
    for part in ("single", "mean"):
        for one, two in zip(getattr(before.models[own], part), getattr(after.models[own], part), strict=True):
            assert torch.equal(one, two)
        assert not torch.equal(getattr(before.models[-1], part).weights, getattr(after.models[-1], part).weights)
    assert torch.equal(before.decided[3], after.decided[3])


def test_further_rounds_learn_from_pseudo_labels():
    generator = torch.Generator().manual_seed(1)
    (said, labels), (other, truth) = made_up(20, generator), made_up(60, generator)
    folds = torch.tensor(folds_of([str(i) for i in range(20)], 4))
    one, two = (cross_fit(said, labels, folds, other, threshold=0.5, rounds=rounds) for rounds in (1, 2))
    assert not torch.equal(one.models[-1].mean.weights, two.models[-1].mean.weights)
    is_right = ((two.pseudo > 0.5) == truth.bool())[:, :4].all(1)
    assert is_right.double().mean() > 0.8


def test_both_sights_vote_with_sides_exchanged_back():
    weights = torch.zeros(1, 25, dtype=torch.float64)
    weights[0, 2] = torch.tensor(3.0).log()  # the one word speaks of the left: 3/4 with it, 1/2 without
    model = Logistic(weights, torch.zeros(25, dtype=torch.float64))
    mean = torch.tensor([[[1.0]], [[0.0]]], dtype=torch.float64)
    seen = label_probabilities(model, SceneFeatures(mean.unsqueeze(2), mean))[0]
    assert seen[2:4].tolist() == pytest.approx([(3 / 4 + 1 / 2) / 2, 1 / 2])  # left, right
    mirrored = label_probabilities(model, SceneFeatures(mean.flip(0).unsqueeze(2), mean.flip(0)))[0]
    assert mirrored[2:4].tolist() == pytest.approx([1 / 2, (3 / 4 + 1 / 2) / 2])
    torch.testing.assert_close(mirrored[list(BDD_OIA.mirrored_labels)], seen)


def test_confidence_by_hand():
    probabilities = torch.full((1, 25), 0.01, dtype=torch.float64)
    probabilities[0, :4] = torch.tensor([0.5, 0.8, 0.1, 1.0])
    assert log_confidence(probabilities).exp().item() == pytest.approx(0.5 * 0.8 * 0.9)


def test_calibration_finds_how_sure_one_may_be():
    # Decisions are right with probability sigmoid(3 * confidence + 2), which is what must be found.
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.zeros(4000, 25, dtype=torch.float64)
    probabilities[:, 0] = 0.5 + 0.5 * torch.rand(4000, generator=generator, dtype=torch.float64)
    is_right = torch.rand(4000, generator=generator) < torch.sigmoid(3 * log_confidence(probabilities) + 2)
    labels = torch.zeros(4000, 25, dtype=torch.float64)
    labels[:, 0] = is_right.double()
    found = fit_calibration(probabilities, labels)
    assert found.tolist() == pytest.approx([3, 2], abs=0.4)
    claimed = probability_right(probabilities, found)
    assert claimed.mean().item() == pytest.approx(is_right.double().mean().item(), abs=1e-3)


def test_where_all_are_right_it_is_one_probability():
    labels = torch.zeros(8, 25, dtype=torch.float64)
    found = fit_calibration(torch.full((8, 25), 0.2, dtype=torch.float64), labels)
    assert probability_right(torch.rand(3, 25).double(), found).tolist() == pytest.approx([0.9] * 3)  # 9 of 10
    surer_is_worse = torch.full((8, 25), 0.2, dtype=torch.float64)
    surer_is_worse[:4, 0] = 0.9  # wrong and sure
    surer_is_worse[4:, 0] = 0.4  # right and unsure
    found = fit_calibration(surer_is_worse, labels)
    assert probability_right(surer_is_worse, found).tolist() == pytest.approx([0.5] * 8)
