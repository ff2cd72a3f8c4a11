"""Beginnings that are given, not drawn."""

import pytest
import torch

from lvad.policy.grammar import AnswerGrammar
from lvad.policy.tokens import without_end
from lvad.text import parse, render


def beginning(policy, *texts):
    begin = policy.targets([[text] for text in texts])
    return begin._replace(completion_mask=without_end(begin))


def test_completions_start_as_they_are_told_and_their_distribution_counts_the_start(make_policy, make_batch):
    policy = make_policy(max_new_tokens=40)
    prefix = policy.encode(make_batch(1, 2))
    said = ["Action: stop.", "Action: forward, left."]
    rollouts = policy.generate(prefix, 1, begin=beginning(policy, *said))
    for (text,), start in zip(rollouts.texts, said, strict=True):
        assert text.startswith(start)
    torch.testing.assert_close(policy.logprobs(prefix, rollouts), rollouts.logps, rtol=0, atol=2e-4)


def test_a_whole_answer_at_the_start_leaves_only_its_end_to_the_grammar(make_policy, make_batch):
    policy = make_policy(max_new_tokens=40)
    begin = beginning(policy, "Action: stop.")
    rollouts = policy.generate(policy.encode(make_batch(1)), 1, True, AnswerGrammar(with_reasons=False), begin)
    assert rollouts.texts == [["Action: stop."]]
    assert rollouts.tokens[0, 0, int(begin.completion_mask.sum())] == policy.end_id


def test_a_grammar_goes_on_behind_the_start(make_policy, make_batch):
    policy = make_policy(max_new_tokens=150)
    begin = beginning(policy, "Action: left.", "Action: none.")
    texts = policy.generate(policy.encode(make_batch(1, 1)), 1, grammar=AnswerGrammar(), begin=begin).texts
    answers = [parse(row[0]) for row in texts]
    assert [a.actions for a in answers] == [(0, 0, 1, 0), (0, 0, 0, 0)]
    assert all(answer.is_valid for answer in answers)


def test_a_start_outside_the_grammar_is_refused(make_policy, make_batch):
    policy = make_policy(max_new_tokens=40)
    with pytest.raises(ValueError, match="leads to no answer"):
        policy.generate(policy.encode(make_batch(1)), 1, True, AnswerGrammar(), beginning(policy, "a car"))


def test_the_end_is_what_is_left_out(make_policy):
    policy = make_policy()
    targets = policy.targets([[render([0, 1, 0, 0]), render([1, 1, 1, 1])]])
    kept = without_end(targets)
    assert (targets.completion_mask.sum(-1) - kept.sum(-1)).tolist() == [[1, 1]]
    assert not (targets.tokens[kept] == policy.end_id).any()
