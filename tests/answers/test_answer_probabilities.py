"""Probabilities of labels against enumeration, and the decision that makes common actions dearer."""

import itertools

import pytest
import torch

from lvad.answers.answer_probabilities import (
    AnswerProbabilities,
    action_set_logps,
    all_action_sets,
    balanced_choice,
    mean_probabilities,
    mirrored_sets,
    reason_probabilities,
)
from lvad.policy import HFPolicy, Sampling
from lvad.taxonomy import BDD_OIA
from lvad.text import render


@pytest.fixture(scope="module")
def policy(vlm_folder):
    torch.manual_seed(0)
    return HFPolicy(str(vlm_folder), Sampling(max_new_tokens=30), lora=None).eval()


@torch.no_grad()
def one_by_one(policy, prefix, texts, end):
    """float[B, N], the log-probabilities of texts scored alone; ``end`` 0 counts the end, 1 leaves it out."""
    columns = []
    for row in texts:
        targets = policy.targets([[text] for text in row])
        logps = policy.logprobs(prefix, targets)[:, 0]
        lengths = targets.completion_mask[:, 0].sum(1).tolist()
        columns.append(torch.stack([logps[b, : n - end].sum() for b, n in enumerate(lengths)]))
    return torch.stack(columns, 1)


def test_action_probabilities_are_those_of_all_sets_scored_one_by_one(policy, make_batch):
    prefix = policy.encode(make_batch(2, 1, seed=3))
    sets = list(itertools.product((0, 1), repeat=4))
    weights = one_by_one(policy, prefix, [[render(row)] * 2 for row in sets], end=1).softmax(1)
    expected = [[sum(weights[b, i] for i, row in enumerate(sets) if row[a]) for a in range(4)] for b in range(2)]
    found = action_set_logps(policy, prefix)
    torch.testing.assert_close(found.exp(), weights, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(AnswerProbabilities(found, None).actions, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert not torch.equal(found[0], found[1])


def test_reason_probabilities_are_the_laws_full_conditionals(policy, make_batch):
    """P(r | the others) = p(with r) / (p(with r) + p(without r)), whether r was said or not."""
    prefix = policy.encode(make_batch(1, 1, seed=4))
    actions = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 1]])
    reasons = torch.zeros(2, 21, dtype=torch.long)
    reasons[0, 3] = reasons[0, 8] = reasons[1, 20] = 1
    found = reason_probabilities(policy, prefix, actions, reasons)
    for r in (0, 3, 20):
        pair = []
        for value in (1, 0):
            changed = reasons.clone()
            changed[:, r] = value
            pair.append([render(a, s) for a, s in zip(actions.tolist(), changed.tolist(), strict=True)])
        expected = one_by_one(policy, prefix, pair, end=0).softmax(1)[:, 0]
        torch.testing.assert_close(found[:, r], expected, rtol=1e-3, atol=1e-5)


def test_a_choice_without_strength_is_the_most_probable_set():
    logps = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    chosen = balanced_choice(logps, torch.tensor([0.9, 0.5, 0.1, 0.2]), 0.0)
    assert torch.equal(chosen, all_action_sets(4)[logps.argmax(-1)])


def test_common_actions_are_dearer_by_the_logit_of_their_share():
    """Stop, true of 3 scenes in 4, costs log 3 = 1.1; left, true of 1 in 4, is paid as much."""
    sets = [row.tolist() for row in all_action_sets(4)]
    stop, left = sets.index([0, 1, 0, 0]), sets.index([0, 0, 1, 0])
    shares = torch.tensor([0.5, 0.75, 0.25, 0.5])
    for margin, expected in ((2.1, left), (2.3, stop)):  # 2 log 3 = 2.197
        logps = torch.full((1, 16), -50.0)
        logps[0, stop], logps[0, left] = 0.0, -margin
        assert balanced_choice(logps, shares, 1.0).tolist() == [sets[expected]]


def test_an_action_that_is_never_true_has_a_finite_price():
    chosen = balanced_choice(torch.zeros(1, 16).log_softmax(-1), torch.tensor([0.0, 1.0, 0.5, 0.5]), 1.0)
    assert chosen[0, :2].tolist() == [1, 0]


def test_a_mirrored_set_has_left_and_right_exchanged():
    sets = [tuple(row) for row in all_action_sets(4).tolist()]
    forward_left, forward_right = sets.index((1, 0, 1, 0)), sets.index((1, 0, 0, 1))
    assert mirrored_sets(BDD_OIA)[forward_left] == forward_right
    assert mirrored_sets(BDD_OIA)[sets.index((0, 1, 0, 0))] == sets.index((0, 1, 0, 0))
    assert [mirrored_sets(BDD_OIA)[mirrored_sets(BDD_OIA)[i]] for i in range(16)] == list(range(16))


def test_mirrored_probabilities_are_those_of_the_other_side():
    """Left, the third action, becomes right; no lane on the left (16) becomes no lane on the right (19)."""
    logps = torch.full((1, 16), -50.0)
    logps[0, [row.tolist() for row in all_action_sets(4)].index([1, 0, 1, 0])] = 0.0
    reasons = torch.zeros(1, 21)
    reasons[0, 16] = 0.75
    found = AnswerProbabilities(logps, reasons).mirrored()
    assert [round(p, 6) for p in found.actions[0].tolist()] == [1, 0, 0, 1]
    assert found.reasons is not None
    assert found.reasons.nonzero().tolist() == [[0, 19]]
    assert torch.equal(found.mirrored().action_sets, logps)


def test_views_are_averaged_as_probabilities():
    """(0.5 + 0.1) / 2 and (0.2 + 0.4) / 2 for the first two sets; 0.9 and 0.3 of a reason make 0.6."""
    first, second = torch.full((1, 16), 0.3 / 14), torch.full((1, 16), 0.5 / 14)
    first[0, :2], second[0, :2] = torch.tensor([0.5, 0.2]), torch.tensor([0.1, 0.4])
    views = [AnswerProbabilities(p.log(), torch.full((1, 21), r)) for p, r in ((first, 0.9), (second, 0.3))]
    found = mean_probabilities(views)
    assert found.action_sets.exp()[0, :2].tolist() == pytest.approx([0.3, 0.3], abs=1e-6)
    assert found.action_sets.exp().sum().item() == pytest.approx(1, abs=1e-6)
    assert found.reasons is not None
    assert found.reasons[0].tolist() == pytest.approx([0.6] * 21)
    assert mean_probabilities([view._replace(reasons=None) for view in views]).reasons is None


def test_autocast_leaves_probabilities_and_prices_in_float32():
    """In bfloat16 the margins of 0.001 below are under the rounding of a price of 2.2."""
    logps = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    sets = [row.tolist() for row in all_action_sets(4)]
    near = torch.full((2, 16), -50.0)
    near[:, sets.index([0, 1, 0, 0])] = 0.0
    near[:, sets.index([0, 0, 1, 0])] = -2.1972 + torch.tensor([0.001, -0.001])  # 2 log 3 is 2.1972
    shares = torch.tensor([0.5, 0.75, 0.25, 0.5])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, chosen = AnswerProbabilities(logps, None).actions, balanced_choice(near, shares, 1.0)
    weights = logps.double().exp()
    expected = [[sum(row[i].item() for i, held in enumerate(sets) if held[a]) for a in range(4)] for row in weights]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)
    assert chosen.tolist() == [[0, 0, 1, 0], [0, 1, 0, 0]]
