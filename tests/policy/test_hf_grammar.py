"""Answers over their grammar: always valid, and the mask belongs to the distribution."""

import pytest
import torch
from listing import as_rollouts, only

from lvad.policy.grammar import AnswerGrammar
from lvad.text import parse, render

LAWS = [{}, {"temperature": 1.5, "top_k": 50, "top_p": 0.95}, {"temperature": 0.7, "top_k": 5}]
ANSWERS = AnswerGrammar()


@pytest.mark.parametrize("law", [{}, {"temperature": 5.0}, {"temperature": 1.5, "top_k": 50, "top_p": 0.95}])
def test_two_hundred_answers_of_a_random_model_are_all_valid(make_policy, make_batch, law):
    policy = make_policy(max_new_tokens=70, **law)
    prefix = policy.encode(make_batch(1, 2))
    torch.manual_seed(0)
    rollouts = policy.generate(prefix, 100, grammar=ANSWERS)
    texts = [text for row in rollouts.texts for text in row]
    assert len(set(texts)) > 20
    for text in texts:
        answer = parse(text)
        assert answer.is_valid
        assert render(answer.actions, answer.reasons) == text
    assert not rollouts.is_truncated.any()
    assert rollouts.entropies.isfinite().all()


@pytest.mark.parametrize("law", LAWS)
def test_completion_pass_gives_the_masked_log_probabilities_of_the_sampler(make_policy, make_batch, law, monkeypatch):
    monkeypatch.setattr("lvad.policy.autograd_functions.LOGITS_AT_ONCE", 64 * 300)  # several slices
    policy = make_policy(max_new_tokens=50, **law)
    prefix = policy.encode(make_batch(2, 1))
    rollouts = policy.generate(prefix, 4, grammar=ANSWERS)
    logps = policy.logprobs(prefix, rollouts, ANSWERS)
    torch.testing.assert_close(logps, rollouts.logps, rtol=0, atol=5e-4)
    assert (logps.sum(-1) > policy.logprobs(prefix, rollouts).sum(-1)).all()
    logps.sum().backward()
    assert all(p.grad.isfinite().all() for p in policy.parameters() if p.grad is not None)


def test_greedy_answers_are_valid_and_the_same_twice(make_policy, make_batch):
    policy = make_policy(max_new_tokens=30)
    prefix = policy.encode(make_batch(1, 1))
    first = policy.generate(prefix, 2, greedy=True, grammar=AnswerGrammar(with_reasons=False))
    second = policy.generate(prefix, 2, greedy=True, grammar=AnswerGrammar(with_reasons=False))
    assert first.texts == second.texts
    assert all(render(parse(text).actions) == text for row in first.texts for text in row)


def every_answer(policy, grammar, num_tokens):
    tokens = policy._token_grammar(grammar)
    frontier = [([], tokens.start(1, num_tokens).states[0])]
    while frontier:
        drawn, place = frontier.pop()
        if drawn[-1:] == [policy.end_id]:
            yield drawn
        else:
            frontier += [([*drawn, t], tokens.after(place, t)) for t in tokens.allowed(place).tolist()]


@pytest.mark.parametrize("law", [{}, {"temperature": 1.5}])
def test_masked_probabilities_of_all_answers_sum_to_one_and_give_the_exact_gradient(make_policy, make_batch, law):
    """A vocabulary in which all answers can be listed, in float64; the gradient against finite differences."""
    grammar = AnswerGrammar(with_reasons=False)
    policy = make_policy(max_new_tokens=14, **law).double()
    tokenizer = policy.processor.tokenizer
    words = [f"Action: {name}." for name in ("stop", "left", "none")]
    only(policy, *{tokenizer.convert_ids_to_tokens(i) for t in words for i in tokenizer(t)["input_ids"]}, ",")
    policy.banned[tokenizer("Action: none.")["input_ids"]] = False
    listed = list(every_answer(policy, grammar, 14))
    texts = {tokenizer.decode(s, skip_special_tokens=True).strip() for s in listed}
    assert {"Action: stop.", "Action: left.", "Action: none.", "Action: stop, left."} <= texts
    sequences = as_rollouts(policy, listed)

    def log_probabilities():
        return policy.logprobs(policy.encode(make_batch(1)), sequences, grammar).sum(-1)[0]

    assert log_probabilities().exp().sum().item() == pytest.approx(1.0, abs=1e-6)
    rewards = torch.linspace(-1, 2, len(listed), dtype=torch.float64) ** 2
    parameter = max((p for n, p in policy.named_parameters() if "lora_A" in n), key=lambda p: p.numel())
    (gradient,) = torch.autograd.grad((log_probabilities().exp() * rewards).sum(), parameter)
    step = 1e-3 * gradient / gradient.norm()
    with torch.no_grad():
        parameter.add_(step)
        above = (log_probabilities().exp() * rewards).sum()
        parameter.sub_(2 * step)
        below = (log_probabilities().exp() * rewards).sum()
    # RMSNorm of transformers computes in float32.
    assert ((above - below) / 2e-3).item() == pytest.approx(gradient.norm().item(), rel=1e-2)


@pytest.mark.parametrize("lora", [True, False])
def test_the_reference_of_an_answer_is_masked_too(make_policy, make_batch, lora):
    policy = make_policy(lora=lora, spread=False, max_new_tokens=60)
    policy.keep_reference()
    batch = make_batch(1)
    prefix = policy.encode(batch)
    rollouts = policy.generate(prefix, 4, grammar=ANSWERS)
    reference = policy.reference_logprobs(batch, prefix, rollouts, ANSWERS)
    torch.testing.assert_close(reference, rollouts.logps, rtol=0, atol=5e-4)


def test_a_budget_below_the_shortest_answer_and_foreign_completions_are_errors(make_policy, make_batch):
    policy = make_policy(max_new_tokens=3)
    prefix = policy.encode(make_batch(1))
    with pytest.raises(ValueError, match=r"max_new_tokens must be >= .* got 3"):
        policy.generate(prefix, 2, grammar=ANSWERS)
    policy = make_policy(max_new_tokens=60)
    with pytest.raises(ValueError, match="completion 1 of scene 0, token 0"):
        policy.logprobs(prefix, policy.targets([[render((0, 1, 0, 0), (0,) * 21), "a car"]]), ANSWERS)
