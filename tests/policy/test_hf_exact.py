"""The policy on a vocabulary small enough to list: its distribution sums to one, its mean gradient is exact."""

import itertools

import pytest
import torch
from listing import as_rollouts, every_completion, only

from lvad.losses.policy_gradient import leave_one_out, reinforce


@pytest.mark.parametrize("law", [{}, {"temperature": 1.5, "top_k": 2}, {"top_p": 0.8}])
def test_probabilities_of_all_sequences_sum_to_one(make_policy, make_batch, law):
    policy = make_policy(max_new_tokens=3, **law)
    ids = only(policy, "a", "b", "c")
    sequences = as_rollouts(policy, list(every_completion(policy, ids, 3)))
    # A sequence outside the kept set has no probability; always_keep would give it some, so truncated laws are
    # summed over what the sampler can draw.
    prefix = policy.encode(make_batch(1))
    torch.manual_seed(0)
    drawn = policy.generate(prefix, 3000)
    probs = {tuple(t[m].tolist()): p.sum().exp().item() for t, m, p in zip(*(f[0] for f in drawn[:3]), strict=True)}
    assert sum(probs.values()) == pytest.approx(1.0, abs=0.02)
    if not law:
        exact = policy.logprobs(prefix, sequences).sum(-1).exp().sum()
        assert exact.item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("law", [{}, {"temperature": 1.5, "top_k": 2}])
def test_samples_follow_the_distribution_over_whole_sequences(make_policy, make_batch, law):
    policy = make_policy(max_new_tokens=2, **law)
    only(policy, "a", "b", "c")
    torch.manual_seed(0)
    num = 20_000
    drawn = policy.generate(policy.encode(make_batch(1)), num)
    counts, probs = {}, {}
    for tokens, mask, logps in zip(*(field[0] for field in drawn[:3]), strict=True):
        key = tuple(tokens[mask].tolist())
        counts[key] = counts.get(key, 0) + 1
        probs[key] = logps.sum().exp().item()
    chi_square = sum((counts[k] - num * p) ** 2 / (num * p) for k, p in probs.items() if num * p > 5)
    assert chi_square < 40  # 12 degrees of freedom at most: the 0.9999 quantile is 39.1


@pytest.mark.parametrize("law", [{}, {"temperature": 1.5}])
def test_mean_rloo_gradient_over_all_groups_is_the_exact_gradient(make_policy, make_batch, law):
    """Eq. 1 has the gradient of K E[R] as its mean: enumerate all pairs of all sequences, in float64."""
    policy = make_policy(max_new_tokens=2, **law).double()
    ids = only(policy, "a", "b")
    sequences = as_rollouts(policy, list(every_completion(policy, ids, 2)))
    num = sequences.tokens.shape[1]
    rewards = torch.linspace(-1, 2, num, dtype=torch.float64) ** 2
    parameters = [p for p in policy.parameters() if p.requires_grad]

    logps = policy.logprobs(policy.encode(make_batch(1)), sequences)
    assert logps.dtype == torch.float64
    sequence_logps = logps.sum(-1)[0]
    exact = torch.autograd.grad((sequence_logps.exp() * rewards).sum(), parameters, retain_graph=True)

    loss = torch.zeros((), dtype=torch.float64)
    for pair in itertools.product(range(num), repeat=2):
        chosen = torch.tensor(pair)
        advantages = leave_one_out(rewards[chosen][None])
        weight = sequence_logps[chosen].sum().exp().detach()
        loss = loss + weight * reinforce(logps[:, chosen], advantages, sequences.completion_mask[:, chosen])
    mean = torch.autograd.grad(loss, parameters)
    for expected, actual in zip(exact, mean, strict=True):
        # The rotary embedding of transformers computes in float32 whatever it is given.
        assert (actual + 2 * expected).norm() <= 1e-5 * expected.norm()
