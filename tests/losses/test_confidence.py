"""Decisions that are sure enough to be learnt from."""

import pytest
import torch

from lvad.losses.confidence import confident_choice


def test_what_reaches_the_threshold_is_kept():
    logps = torch.tensor([[0.6, 0.3, 0.1], [0.05, 0.9, 0.05], [0.2, 0.2, 0.6]]).log()
    found = confident_choice(logps, 0.6)
    assert found.choice.tolist() == [0, 1, 2]
    assert found.probability.tolist() == pytest.approx([0.6, 0.9, 0.6])
    assert confident_choice(logps, 0.61).is_kept.tolist() == [False, True, False]


def test_a_temperature_sharpens():
    """At 1/2 the probabilities are squared: 0.36 / (0.36 + 0.09 + 0.01) = 0.7826; at 2, roots: 0.4673."""
    logps = torch.tensor([[0.6, 0.3, 0.1]]).log()
    assert confident_choice(logps, 0.7, 0.5).probability.item() == pytest.approx(0.36 / 0.46, abs=1e-6)
    assert confident_choice(logps, 0.7, 0.5).is_kept.item()
    roots = [0.6**0.5, 0.3**0.5, 0.1**0.5]
    assert confident_choice(logps, 0.7, 2.0).probability.item() == pytest.approx(roots[0] / sum(roots), abs=1e-6)


def test_log_probabilities_need_not_be_normalised():
    logps = torch.tensor([[0.6, 0.4]]).log()
    assert confident_choice(logps - 7, 0.5).probability.item() == pytest.approx(0.6, abs=1e-6)


def test_what_is_out_of_range_is_refused():
    for threshold in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\]"):
            confident_choice(torch.zeros(1, 2), threshold)
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        confident_choice(torch.zeros(1, 2), 0.5, 0.0)
