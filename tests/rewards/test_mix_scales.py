"""Parts of a sum on one scale: by hand, in checkpoints, and where there is none."""

import math

import pytest
import torch
from test_mix import SAID, Fixed
from test_rules import rollouts
from torch import nn

from lvad.rewards import Ensemble, Mix, OnReason
from lvad.trained_weights import keep_trained_weights


class PerScene(Fixed):
    """Gives each scene its own row."""

    def __init__(self, *rows: list[float]) -> None:
        super().__init__([])
        self.values = torch.tensor(rows)


def make_normalised(**weights: float) -> Mix:
    parts = {"wide": PerScene([1.0, 3.0], [10.0, 14.0]), "narrow": PerScene([0.0, 0.2], [5.0, 5.0])}
    return Mix(parts, {"wide": 1.0, "narrow": 1.0} | weights, normalise=True)


TWO = rollouts([["x", "y"], ["z", "w"]])


def test_normalised_parts_by_hand():
    mix = make_normalised(narrow=0.5)
    # Unbiased variances of two: half the squared difference. wide: 2 and 8, mean 5. narrow: 0.02 and 0, mean 0.01.
    mix.calibrate(None, TWO)
    torch.testing.assert_close(mix.scales, torch.tensor([5.0**0.5, 0.1]))
    assert bool(mix.is_calibrated)
    scores = mix.score(None, TWO)
    # 0.5 / 0.1 = 5 of the narrow part: 0, 1, 25, 25.
    root = 5**0.5
    expected = torch.tensor([[1 / root, 3 / root + 1], [10 / root + 25, 14 / root + 25]])
    torch.testing.assert_close(scores.total, expected)
    assert scores.terms["wide"].tolist() == [[1, 3], [10, 14]]
    torch.testing.assert_close(scores.terms["narrow"], torch.tensor([[0.0, 0.2], [5.0, 5.0]]))


def test_a_unit_of_a_part_does_not_matter_to_a_normalised_mix():
    totals = []
    for unit in (1.0, 1000.0):
        parts = {"a": PerScene([1.0 * unit, 2.0 * unit]), "b": PerScene([3.0, 1.0])}
        mix = Mix(parts, {"a": 1.0, "b": 2.0}, normalise=True)
        mix.calibrate(None, SAID)
        totals.append(mix.score(None, SAID).total)
    torch.testing.assert_close(*totals)


def test_scales_are_measured_once_and_one_before():
    mix = make_normalised()
    plain = Mix(dict(mix.parts.items()), mix.weights)
    assert torch.equal(mix.score(None, TWO).total, plain.score(None, TWO).total)
    mix.calibrate(None, TWO)
    before = mix.scales.clone()
    mix.parts["wide"].values = torch.tensor([[0.0, 100.0], [0.0, 100.0]])
    mix.calibrate(None, TWO)
    assert torch.equal(mix.scales, before)


def test_scales_are_in_checkpoints_where_they_are_used_and_nowhere_else():
    mix = make_normalised()
    mix.calibrate(None, TWO)
    again = make_normalised()
    again.load_state_dict(mix.state_dict())
    assert bool(again.is_calibrated)
    assert torch.equal(again.score(None, TWO).total, mix.score(None, TWO).total)
    assert Mix.keeps_buffers
    holder = nn.Module()
    holder.reward = mix
    checkpoint = {"state_dict": holder.state_dict()}
    keep_trained_weights(checkpoint, holder)
    assert set(checkpoint["state_dict"]) == {"reward.scales", "reward.is_calibrated"}
    plain = Mix({"a": Fixed([1.0, 2.0])}, {"a": 1.0})
    assert bool(plain.is_calibrated)  # nothing to do
    plain.calibrate(None, SAID)
    assert plain.scales.tolist() == [1]
    assert not any("scales" in name or "calibrated" in name for name in plain.state_dict())


def test_a_part_without_spread_keeps_its_scale_with_a_warning():
    # The two thirds differ by rounding alone.
    parts = {"same": PerScene([2 / 3, 2 / 3 + 1e-7]), "b": PerScene([1.0, 3.0])}
    mix = Mix(parts, {"same": 1.0, "b": 1.0}, normalise=True)
    with pytest.warns(UserWarning, match="part 'same' gives all completions of a scene the same"):
        mix.calibrate(None, SAID)
    torch.testing.assert_close(mix.scales, torch.tensor([1.0, 2.0**0.5]))


def test_scenes_that_are_not_finite_are_left_out_of_the_scale():
    parts = {"a": PerScene([1.0, 3.0], [math.nan, 100.0])}
    mix = Mix(parts, {"a": 1.0}, normalise=True)
    mix.calibrate(None, TWO)
    torch.testing.assert_close(mix.scales, torch.tensor([2.0**0.5]))
    broken = {"a": PerScene([1.0, math.inf])}
    with pytest.raises(ValueError, match="scale of part 'a': in no scene"):
        Mix(broken, {"a": 1.0}, normalise=True).calibrate(None, SAID)
    watched = Mix({**broken, "b": PerScene([1.0, 3.0])}, {"a": 0.0, "b": 1.0}, normalise=True)
    watched.calibrate(None, SAID)
    torch.testing.assert_close(watched.scales, torch.tensor([1.0, 2.0**0.5]))
    with pytest.raises(ValueError, match="at least 2 completions per scene to calibrate, got 1"):
        Mix({"a": PerScene([1.0])}, {"a": 1.0}, normalise=True).calibrate(None, SAID)


@pytest.mark.parametrize("wrap", [lambda m: Mix({"m": m}, {"m": 1.0}), lambda m: Ensemble([m, m]), OnReason])
def test_a_normalised_mix_stands_outermost(wrap):
    with pytest.raises(ValueError, match="only the outermost reward may have"):
        wrap(make_normalised())
