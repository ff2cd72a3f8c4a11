"""The sampled distribution."""

import pytest
import torch

from lvad.policy.sampling import Sampling, next_token_logps, sample_tokens

LOGITS = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05]).log()
NONE = torch.zeros(5, dtype=torch.bool)


def probs(sampling, banned=NONE):
    return next_token_logps(LOGITS, sampling, banned).exp().tolist()


def test_plain_distribution_is_the_softmax():
    assert probs(Sampling()) == pytest.approx([0.5, 0.2, 0.15, 0.1, 0.05])


def test_temperature_by_hand():
    # T = 0.5 squares the odds: 0.25, 0.04, 0.0225, 0.01, 0.0025, sum 0.325.
    assert probs(Sampling(temperature=0.5)) == pytest.approx([v / 0.325 for v in (0.25, 0.04, 0.0225, 0.01, 0.0025)])


def test_top_k_by_hand():
    assert probs(Sampling(top_k=2)) == pytest.approx([5 / 7, 2 / 7, 0, 0, 0])


@pytest.mark.parametrize(("top_p", "num_kept"), [(0.5, 1), (0.51, 2), (0.7, 2), (0.71, 3), (0.999, 5), (0.01, 1)])
def test_top_p_keeps_the_smallest_sufficient_set(top_p, num_kept):
    assert sum(p > 0 for p in probs(Sampling(top_p=top_p))) == num_kept


def test_top_p_acts_on_what_top_k_left():
    # Of the renormalised (5/7, 2/7), the first alone has 0.714 >= 0.7.
    assert probs(Sampling(top_k=2, top_p=0.7)) == pytest.approx([1, 0, 0, 0, 0])


def test_banned_tokens_are_gone_before_truncation():
    banned = torch.tensor([True, False, False, False, False])
    assert probs(Sampling(top_k=2), banned) == pytest.approx([0, 4 / 7, 3 / 7, 0, 0])


def test_distribution_agrees_with_transformers_warpers():
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    torch.manual_seed(0)
    logits = torch.randn(64, 50, dtype=torch.float64)
    warped = logits
    for warper in (TemperatureLogitsWarper(1.5), TopKLogitsWarper(20), TopPLogitsWarper(0.9)):
        warped = warper(None, warped)  # type: ignore[arg-type]
    ours = next_token_logps(logits, Sampling(1.5, 20, 0.9), torch.zeros(50, dtype=torch.bool))
    torch.testing.assert_close(ours.exp(), warped.softmax(-1))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.5, 3, 0.8), Sampling(top_p=0.6), Sampling(0.7, 4)])
def test_draws_follow_the_distribution(sampling):
    """Pearson's chi-square of 40,000 draws stays under the 0.9999 quantile (23.5 for 4 degrees of freedom)."""
    torch.manual_seed(0)
    banned = torch.tensor([False, False, True, False, False])
    logps = next_token_logps(LOGITS, sampling, banned)
    draws = sample_tokens(logps.expand(40_000, -1), torch.rand(40_000))
    counts = torch.bincount(draws, minlength=5).double()
    expected = 40_000 * logps.exp().double()
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert ((counts - expected)[possible] ** 2 / expected[possible]).sum() < 23.5


def test_a_drawn_token_is_kept_whatever_the_rounding():
    token = torch.tensor(4)
    kept = next_token_logps(LOGITS, Sampling(top_k=2), NONE, always_keep=token)
    assert kept.exp().tolist() == pytest.approx([0.5 / 0.75, 0.2 / 0.75, 0, 0, 0.05 / 0.75])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0}, "temperature must be > 0, got 0.0"),
        ({"top_k": -1}, "top_k must be >= 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be >= 1"),
    ],
)
def test_senseless_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**values)


def test_inversion_takes_the_token_in_whose_share_the_number_falls():
    logps = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0]).log()
    below_one = 1 - 2**-24
    uniform = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, below_one])
    assert sample_tokens(logps.expand(6, -1), uniform).tolist() == [1, 1, 3, 3, 4, 4]
    assert sample_tokens(logps.expand(2, -1), None).tolist() == [3, 3]


def test_an_impossible_token_is_never_drawn_whatever_the_rounding():
    torch.manual_seed(0)
    logits = torch.randn(2000, 500) * 8
    impossible = torch.rand(2000, 500) < 0.9
    impossible[:, 0] = False
    logps = logits.masked_fill(impossible, -torch.inf).log_softmax(-1)
    for uniform in (torch.zeros(2000), torch.rand(2000), torch.full((2000,), 1 - 2**-24)):
        assert not impossible.gather(1, sample_tokens(logps, uniform)[:, None]).any()
