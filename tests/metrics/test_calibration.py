"""Calibration and intervals against scikit-learn, SciPy and by hand."""

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve as sklearn_curve
from sklearn.linear_model import LogisticRegression

from lvad.metrics.calibration import calibration_curve, fit_platt
from lvad.metrics.intervals import bootstrap_mean


def noisy(count, slope=4.0, offset=-1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, generator=generator)
    return scores, torch.rand(count, generator=generator) < torch.sigmoid(slope * scores + offset)


def test_platt_is_logistic_regression_on_many_scores():
    scores, is_match = noisy(20_000)
    model = LogisticRegression(C=np.inf, tol=1e-10).fit(scores[:, None].numpy(), is_match.numpy())
    expected = torch.tensor([model.coef_[0, 0], model.intercept_[0]]).double()
    # Platt's targets differ from 0 and 1 by 1e-4 here.
    torch.testing.assert_close(fit_platt(scores, is_match), expected, rtol=0, atol=0.02)


def test_platt_by_hand():
    # Scores 0 and 1, one match among two and two among three, in equal parts: the targets are (2 + 1) / (2 + 2) and
    # 1 / (2 + 2). At score 0 the mean target is (3/4 + 1/4) / 2 = 1/2, so b = 0; at 1 as well, so a = 0.
    scores, is_match = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([True, False, True, False])
    torch.testing.assert_close(fit_platt(scores, is_match), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-9)
    # Two apart: at score 1 target 3/4, at 0 target 1/4: b = logit(1/4) = -ln 3, a = 2 ln 3.
    scores, is_match = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([False, False, True, True])
    expected = torch.tensor([2.0, -1.0], dtype=torch.float64) * torch.log(torch.tensor(3.0, dtype=torch.float64))
    torch.testing.assert_close(fit_platt(scores, is_match), expected, rtol=0, atol=1e-6)


def test_platt_follows_the_unit_of_the_scores():
    scores, is_match = noisy(300)
    slope, offset = fit_platt(scores, is_match)
    scaled = fit_platt(100 * scores + 7, is_match)
    torch.testing.assert_close(scaled, torch.stack([slope / 100, offset - 7 * slope / 100]), rtol=1e-4, atol=1e-6)


def test_platt_of_scores_without_overlap_and_of_a_constant_is_finite():
    apart = fit_platt(torch.tensor([0.0, 0.1, 0.9, 1.0]), torch.tensor([False, False, True, True]))
    assert apart.isfinite().all()
    constant = fit_platt(torch.full((10,), 0.3), torch.arange(10) < 5)
    assert torch.sigmoid(constant[0] * 0.3 + constant[1]).item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("scores", "is_match", "message"),
    [([0.1, 0.2], [True, True], "2 and 0"), ([0.1, float("nan")], [True, False], "finite")],
)
def test_platt_refuses_what_it_cannot_fit(scores, is_match, message):
    with pytest.raises(ValueError, match=message):
        fit_platt(torch.tensor(scores), torch.tensor(is_match))


def test_the_curve_is_that_of_scikit_learn():
    scores, is_match = noisy(500)
    p = torch.sigmoid(scores).double()
    observed, claimed = sklearn_curve(is_match.numpy(), p.numpy(), n_bins=10)
    curve = calibration_curve(p, is_match)
    np.testing.assert_allclose(curve.claimed, claimed)
    np.testing.assert_allclose(curve.observed, observed)
    assert curve.count.sum() == 500


def test_the_curve_by_hand():
    curve = calibration_curve(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([False, True, True]), num_bins=2)
    assert (curve.claimed.tolist(), curve.observed.tolist(), curve.count.tolist()) == ([0, 0.75], [0, 1], [1, 2])


def test_the_interval_of_a_mean_is_that_of_the_normal_law_on_many_scenes():
    values = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    interval = bootstrap_mean(values)
    half = 1.96 * values.std().item() / 4000**0.5
    assert interval.mean == pytest.approx(values.mean().item(), abs=1e-6)
    assert interval.high - interval.mean == pytest.approx(half, rel=0.1)
    assert interval.mean - interval.low == pytest.approx(half, rel=0.1)
    assert bootstrap_mean(values) == interval
    assert bootstrap_mean(values, confidence=0.5).high < interval.high


def test_equal_values_are_sure_and_no_values_refused():
    assert bootstrap_mean(torch.full((5,), 2.0)) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="of no values"):
        bootstrap_mean(torch.empty(0))
