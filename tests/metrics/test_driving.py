"""Every score against scikit-learn, the bootstrap against scoring each resample, and what is refused."""

import time
import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from lvad.metrics.driving import (
    Answers,
    answers_of,
    bootstrap_differences,
    bootstrap_scores,
    driving_scores,
    scores_of_draws,
)
from lvad.metrics.multilabel import bootstrap, confusion
from lvad.taxonomy import BDD_OIA
from lvad.types import AnsweredScene

NAMES = {"action": BDD_OIA.action_names, "reason": [reason.key for reason in BDD_OIA.reasons]}


def random_answers(seed, num_scenes=80):
    """Multi-label data with empty rows and columns that are never true, never predicted, neither, always true."""
    generator = torch.Generator().manual_seed(seed)

    def draw(width):
        often = torch.rand(width, generator=generator) * 0.5
        true = torch.rand(num_scenes, width, generator=generator) < often
        said = torch.where(torch.rand(true.shape, generator=generator) < 0.7, true, ~true & (often > 0.25))
        p = (torch.rand(true.shape, generator=generator) + 0.4 * true).clamp(0.02, 0.98)
        if width > 4:
            true[:, 0], said[:, 1], true[:, 2], said[:, 2], true[:, 3] = False, False, False, False, True
        if num_scenes > 9:
            true[::5], said[::7] = False, False  # both empty in every 35th row
        return said, true, ((p * 40).round() + 0.37) / 42  # with ties, away from the edges of the bins

    (actions, true_actions, p), (reasons, true_reasons, q) = draw(4), draw(21)
    return Answers(actions, true_actions, torch.ones(num_scenes).bool(), reasons, true_reasons, p, q)


def by_scikit_learn(answers, kind):
    said, true, p = (getattr(answers, n.format(kind)).numpy() for n in ("{}s", "true_{}s", "{}_probabilities"))
    expected = {
        "macro_f1": sk.f1_score(true, said, average="macro", zero_division=0),
        "micro_f1": sk.f1_score(true, said, average="micro", zero_division=0),
        "f1_all": sk.f1_score(true, said, average="samples", zero_division=0),
        "exact_match": sk.accuracy_score(true, said),
        "bit_accuracy": 1 - sk.hamming_loss(true, said),
    }
    each = sk.precision_recall_fscore_support(true, said, average=None, zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), each, strict=False):
        expected |= {f"{name}/{label}": value for label, value in zip(NAMES[kind], values, strict=True)}
    both = [c for c in range(true.shape[1]) if 0 < true[:, c].sum() < len(true)]
    expected["auroc"] = np.mean([sk.roc_auc_score(true[:, c], p[:, c]) for c in both]) if both else np.nan
    expected["ece"] = np.mean([calibration_error(true[:, c], p[:, c]) for c in range(true.shape[1])])
    return {f"{kind}_{name}": value for name, value in expected.items()}


def calibration_error(true, p):
    observed, claimed = calibration_curve(true, p, n_bins=10)
    count = np.histogram(p, np.linspace(0, 1, 11))[0]
    return np.sum(np.abs(observed - claimed) * count[count > 0]) / len(p)


@pytest.mark.parametrize("num_scenes", [80, 35, 3, 1])
@pytest.mark.parametrize("seed", range(3))
def test_every_score_is_scikit_learns(seed, num_scenes):
    answers = random_answers(seed, num_scenes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {"parse_failure": 0.0} | by_scikit_learn(answers, "action") | by_scikit_learn(answers, "reason")
    found = driving_scores(answers)
    assert found.keys() == expected.keys()
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert {(value.dtype, value.shape) for value in found.values()} == {(torch.float32, ())}


def test_worked_by_hand():
    """Scenes: stop for stop, forward and stop for forward, nothing for nothing.

    Forward TP 1, stop TP 1 and FP 1: F1 1 and 2/3, macro (1 + 2/3) / 4, micro 2 * 2 / (3 + 2). Per scene F1 1, 2/3
    and, as in scikit-learn, 0. Two scenes of three are exact, 11 bits of 12 right.
    """
    said = torch.tensor([[0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    true = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    found = driving_scores(Answers(said, true, torch.tensor([True, True, True])))
    expected = (5 / 12, 4 / 5, 5 / 9, 2 / 3, 11 / 12)
    names = ("macro_f1", "micro_f1", "f1_all", "exact_match", "bit_accuracy")
    assert [found[f"action_{name}"].item() for name in names] == pytest.approx(expected)
    assert not any(name.startswith("reason") or "auroc" in name for name in found)


def test_an_unreadable_answer_matches_nothing():
    nothing = torch.zeros(2, 4).bool()
    found = driving_scores(Answers(nothing, nothing, torch.tensor([True, False])))
    assert found["parse_failure"] == found["action_exact_match"] == 0.5
    flawed = torch.tensor([[True, False, False, False]] * 2)
    assert driving_scores(Answers(flawed, flawed, torch.tensor([True, False])))["action_exact_match"] == 1


def test_confusion():
    """One scene of each: stop for left, right for right, forward + stop for stop, nothing for forward + left."""
    true = torch.tensor([[0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 1, 0]]).bool()
    said = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    found = confusion(said, true)
    assert found.single.tolist() == sk.confusion_matrix([2, 3], [1, 3], labels=range(4)).tolist()
    assert found.num_left_out == 2
    assert found.together.tolist() == [
        [0, 0, 0, 0, 1],
        [1, 1, 0, 0, 0],
        [0, 1, 0, 0, 1],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0],
    ]
    one_hot = torch.eye(4).bool()[torch.randint(4, (2, 50), generator=torch.Generator().manual_seed(0))]
    found = confusion(one_hot[0], one_hot[1])
    assert found.num_left_out == 0
    assert torch.equal(found.single, found.together[:4, :4])


def test_formats_make_no_difference():
    answers = random_answers(1)
    other = answers._replace(actions=answers.actions.int(), true_reasons=answers.true_reasons.long())
    found, expected = ({n: v.item() for n, v in driving_scores(part).items()} for part in (other, answers))
    assert found == expected
    without = driving_scores(answers._replace(reasons=None, reason_probabilities=None))
    assert without["action_macro_f1"] == expected["action_macro_f1"]
    assert not any(name.startswith("reason") for name in without)


def answered(i, **changes):
    one_hot = tuple(int(j == i) for j in range(21))
    scene = AnsweredScene(f"s{i}", "", "", one_hot[:4], one_hot, True, (0.2,) * 4, (), one_hot[:4], one_hot)
    return scene._replace(**changes)


def test_answered_scenes():
    answers = answers_of([answered(0), answered(1, is_valid=False)])
    assert answers.true_actions.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]
    assert answers.action_probabilities is not None
    assert answers.reason_probabilities is None
    assert driving_scores(answers)["parse_failure"] == 0.5
    assert answers_of([answered(0, true_reasons=None)], with_reasons=False).reasons is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"true_actions": None}, "scene s1 has no labels"),
        ({"true_reasons": None}, "scene s1 has no labels"),
        ({"action_probabilities": ()}, "action_probabilities must be as many"),
        ({"true_actions": (-1,) * 4}, "true_actions has UNLABELLED"),
    ],
)
def test_answered_scenes_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        answers_of([answered(0), answered(1, **changes)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": torch.zeros(3, 5).bool()}, r"actions must be int or bool \[3, 4\], got torch.bool \[3, 5\]"),
        ({"actions": torch.rand(3, 4)}, "got torch.float32"),
        ({"actions": torch.tensor(1)}, "actions must be"),
        ({"true_actions": torch.full((3, 4), -1)}, "true_actions has UNLABELLED"),
        ({"true_reasons": torch.full((3, 21), 2)}, r"true_reasons must be 0 or 1, got \[2\]"),
        ({"true_actions": torch.zeros(2, 4).bool()}, "true_actions must be"),
        ({"is_valid": torch.ones(4).bool()}, "is_valid must be"),
        ({"true_reasons": None}, "without true_reasons"),
        ({"reasons": None}, "reason_probabilities are given without reasons"),
        ({"action_probabilities": torch.full((3, 4), 1.5)}, r"must be in \[0, 1\], got 1.5"),
        ({"reason_probabilities": torch.full((3, 21), torch.nan)}, r"must be in \[0, 1\]"),
        ({"reason_probabilities": torch.ones(3, 4)}, r"reason_probabilities must be float \[3, 21\]"),
    ],
)
def test_what_cannot_be_scored_is_refused(changes, message):
    answers = random_answers(0, 3)._replace(**changes)
    with pytest.raises(ValueError, match=message):
        driving_scores(answers)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_scenes_and_mixed_batches_are_refused():
    with pytest.raises(ValueError, match="no scenes"):
        answers_of([])
    with pytest.raises(ValueError, match="no scenes"):
        driving_scores(Answers(*(part[:0] for part in random_answers(0, 3)[:-1])))


def test_a_draw_is_scored_like_its_scenes():
    answers = random_answers(3, 30)
    drawn = torch.randint(30, (7, 30), generator=torch.Generator().manual_seed(0))
    found = scores_of_draws(answers, drawn)
    for d, scenes in enumerate(drawn):
        expected = {n: v.item() for n, v in driving_scores(Answers(*(part[scenes] for part in answers[:-1]))).items()}
        assert {n: v[d].item() for n, v in found.items()} == pytest.approx(expected, abs=1e-6)


def test_intervals():
    """The spread of a share of 200 scenes is its binomial one; 95 % is 1.96 of it on either side."""
    answers = random_answers(4, 200)
    found = bootstrap_scores(answers)
    share = found["action_exact_match"]
    assert share.mean == driving_scores(answers)["action_exact_match"].item()
    half = 1.96 * (share.mean * (1 - share.mean) / 200) ** 0.5
    assert share.high - share.mean == pytest.approx(half, rel=0.15)
    assert share.mean - share.low == pytest.approx(half, rel=0.15)
    assert all(interval.low <= interval.high for interval in found.values())
    few = bootstrap_scores(answers, num_draws=50)
    assert bootstrap_scores(answers, num_draws=50) == few
    assert bootstrap_scores(answers, num_draws=50, seed=1) != few
    half = bootstrap_scores(answers, num_draws=50, confidence=0.5)["action_macro_f1"]
    assert few["action_macro_f1"].low < half.low < half.mean < half.high < few["action_macro_f1"].high


def test_differences_are_paired():
    first = random_answers(5, 200)
    same = bootstrap_differences(first, first, num_draws=50)
    assert {tuple(interval) for interval in same.values()} == {(0.0, 0.0, 0.0)}
    flipped = first.actions.clone()
    flipped[:20, 1] = ~first.true_actions[:20, 1]  # stop is wrong in a tenth of the scenes
    second = first._replace(actions=flipped, reasons=None, reason_probabilities=None)
    found = bootstrap_differences(first, second, num_draws=400)
    assert found.keys() == driving_scores(second).keys()
    assert found["action_f1/stop"].low > 0
    assert tuple(found["action_f1/left"]) == (0.0, 0.0, 0.0)
    alone = [bootstrap_scores(answers, num_draws=400)["action_macro_f1"] for answers in (first, second)]
    assert found["action_macro_f1"].mean == pytest.approx(alone[0].mean - alone[1].mean)
    paired = found["action_macro_f1"].high - found["action_macro_f1"].low
    assert paired < min(interval.high - interval.low for interval in alone)
    with pytest.raises(ValueError, match="true_actions differ"):
        bootstrap_differences(first, second._replace(true_actions=~first.true_actions))


def test_bootstrap_draws_are_those_of_the_seed():
    seen = []
    bootstrap(lambda drawn: seen.append(drawn) or {"x": drawn.float().mean(1)}, 12, 250, seed=3)
    expected = torch.randint(12, (250, 12), generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.cat(seen), expected)


@pytest.mark.slow
def test_a_thousand_draws_of_a_thousand_scenes_take_seconds():
    start = time.perf_counter()
    bootstrap_scores(random_answers(0, 1000))
    assert time.perf_counter() - start < 30
