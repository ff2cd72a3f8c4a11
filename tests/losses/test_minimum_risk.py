"""The expected risk over a set of completions: by hand, by its gradient, and against enumeration."""

import math

import pytest
import torch

from lvad.losses.minimum_risk import is_first_occurrence, minimum_risk

ALL = torch.ones(1, 2, dtype=torch.bool)


def test_by_hand():
    # Scene 1: p = (0.2, 0.3), q = (0.4, 0.6), risk 0.4 * 1 + 0.6 * 0 = 0.4. Scene 2: q = (1/4, 3/4), risk 0.25 + 1.5.
    logps = torch.tensor([[0.2, 0.3], [0.1, 0.3]]).log()
    risks = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    assert minimum_risk(logps, risks, 1.0, ALL.expand(2, 2)).item() == pytest.approx((0.4 + 1.75) / 2)
    # Squared: 4 : 9 and 1 : 9.
    assert minimum_risk(logps, risks, 2.0, ALL.expand(2, 2)).item() == pytest.approx((4 / 13 + 19 / 10) / 2)


def test_a_repeated_completion_counts_once():
    # A set of p = (0.2, 0.3); the 0.2 was drawn twice.
    logps, risks = torch.tensor([[0.2, 0.3, 0.2]]).log(), torch.tensor([[1.0, 0.0, 1.0]])
    assert minimum_risk(logps, risks, 1.0, torch.tensor([[True, True, False]])).item() == pytest.approx(0.4)
    # As a multiset it would be 4/7.
    assert minimum_risk(logps, risks, 1.0, torch.ones(1, 3, dtype=torch.bool)).item() == pytest.approx(4 / 7)


def test_only_proportions_within_a_scene_count():
    generator = torch.Generator().manual_seed(0)
    logps, risks = torch.randn(3, 4, generator=generator), torch.rand(3, 4, generator=generator)
    first = torch.ones(3, 4, dtype=torch.bool)
    moved = logps + torch.tensor([[5.0], [-200.0], [0.0]])  # answers of many tokens
    assert minimum_risk(moved, risks, 0.5, first).item() == pytest.approx(minimum_risk(logps, risks, 0.5, first).item())


def test_sharpness_zero_is_the_mean_over_the_set_and_infinity_its_most_probable_member():
    logps, risks = torch.tensor([[-9.0, -1.0, -5.0, -1.0]]), torch.tensor([[1.0, 2.0, 6.0, 2.0]])
    first = torch.tensor([[True, True, True, False]])
    assert minimum_risk(logps, risks, 0.0, first).item() == pytest.approx(3.0)
    assert minimum_risk(logps, risks, 1e-6, first).item() == pytest.approx(3.0, abs=1e-4)
    assert minimum_risk(logps, risks, 1e3, first).item() == pytest.approx(2.0)


def test_the_gradient_weighs_each_member_by_its_risk_above_the_mean():
    # q = (0.4, 0.6), mean risk 0.4: alpha q (risk - mean) / B = 0.5 * (0.4 * 0.6, 0.6 * -0.4) / 2.
    logps = (torch.tensor([[0.2, 0.3], [0.2, 0.2]]).log() * 2).requires_grad_()
    risks = torch.tensor([[1.0, 0.0], [1.0, 1.0]], requires_grad=True)
    minimum_risk(logps, risks, 0.5, ALL.expand(2, 2)).backward()
    assert logps.grad is not None
    torch.testing.assert_close(logps.grad, torch.tensor([[0.06, -0.06], [0.0, 0.0]]))
    assert risks.grad is None


def test_the_gradient_by_finite_differences():
    generator = torch.Generator().manual_seed(1)
    logps = torch.randn(2, 5, generator=generator, dtype=torch.float64).requires_grad_()
    risks = torch.rand(2, 5, generator=generator, dtype=torch.float64)
    first = torch.tensor([[True] * 5, [True, True, False, True, False]])
    assert torch.autograd.gradcheck(lambda x: minimum_risk(x, risks, 0.7, first), logps)
    minimum_risk(logps, risks, 0.7, first).backward()
    assert logps.grad is not None
    assert logps.grad[1, [2, 4]].tolist() == [0, 0]
    torch.testing.assert_close(logps.grad.sum(1), torch.zeros(2, dtype=torch.float64))


def test_over_the_whole_space_it_is_the_risk_of_the_models_law():
    """All four completions and sharpness 1: nothing is sampled, so loss and gradient are those of E[risk]."""
    theta = torch.tensor([[0.3, -0.2, 0.5, 0.0]], dtype=torch.float64, requires_grad=True)
    risks = torch.tensor([[0.1, 1.0, 0.5, 0.7]], dtype=torch.float64)
    exact = (theta.softmax(1) * risks).sum()
    loss = minimum_risk(theta.log_softmax(1), risks, 1.0, torch.ones(1, 4, dtype=torch.bool))
    torch.testing.assert_close(loss, exact)
    torch.testing.assert_close(torch.autograd.grad(loss, theta), torch.autograd.grad(exact, theta))


def test_half_precision_is_left_before_the_softmax():
    # Both are exact in bfloat16, whose nearest number to q is 0.5625.
    logps = torch.tensor([[-1.0, -1.25]], dtype=torch.bfloat16)
    loss = minimum_risk(logps, torch.tensor([[1.0, 0.0]]), 1.0, ALL)
    assert loss.item() == pytest.approx(1 / (1 + math.exp(-0.25)), abs=1e-6)


def test_first_occurrences_are_told_by_tokens_not_by_padding():
    tokens = torch.tensor([[[5, 6, 0], [5, 6, 7], [5, 6, 9], [5, 0, 0], [5, 0, 0], [5, 6, 7]]])
    keep = torch.tensor([[[1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1]]]).bool()
    # The third is the first with another pad token; of the fourth and the fifth one says token 0, the other ends.
    assert is_first_occurrence(tokens, keep).tolist() == [[True, True, False, True, True, False]]
    # What another scene said is no repetition.
    assert is_first_occurrence(tokens.permute(1, 0, 2), keep.permute(1, 0, 2)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict.fromkeys(("logps", "risks"), torch.zeros(1, 1)) | {"is_first": ALL[:, :1]}, ">= 2, got 1"),
        ({"risks": torch.tensor([[0.0, math.nan]])}, "risks must be finite, got 1"),
        ({"risks": torch.tensor([[math.inf, 0.0]])}, "risks must be finite"),
        ({"sharpness": -0.1}, "sharpness must be finite and >= 0, got -0.1"),
        ({"sharpness": math.nan}, "sharpness must be finite"),
        ({"is_first": ~ALL}, "is_first is False on every completion"),
    ],
)
def test_values_out_of_range(changes, message):
    values = {"logps": torch.zeros(1, 2), "risks": torch.zeros(1, 2), "sharpness": 1.0, "is_first": ALL}
    with pytest.raises(ValueError, match=message):
        minimum_risk(**{**values, **changes})


@pytest.mark.parametrize("changes", [{"risks": torch.zeros(2, 1)}, {"is_first": ALL[:, :1]}, {"logps": torch.zeros(2)}])
def test_wrong_shapes_are_refused(changes):
    values = {"logps": torch.zeros(1, 2), "risks": torch.zeros(1, 2), "sharpness": 1.0, "is_first": ALL}
    with pytest.raises(Exception, match=r"[Tt]ype-check"):
        minimum_risk(**{**values, **changes})
