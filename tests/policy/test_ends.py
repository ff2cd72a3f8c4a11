"""Several tokens that end a completion: the tokenizer's own, and those of the generation settings."""

import itertools
import json
import shutil

import pytest
import torch
from listing import as_rollouts, only
from transformers import AutoModelForImageTextToText, AutoTokenizer

from lvad.answers.answer_probabilities import reason_probabilities
from lvad.policy import HFPolicy, Sampling
from lvad.policy.grammar import AnswerGrammar
from lvad.policy.tokens import chat_inputs
from lvad.text import parse, render


@pytest.fixture
def make_ending(vlm_folder, tmp_path):
    """A policy whose generation settings name ends: special tokens, or tokens that write something too."""

    def make(ends, **sampling):
        folder = tmp_path / "vlm"
        shutil.copytree(vlm_folder, folder, dirs_exist_ok=True)
        file = folder / "generation_config.json"
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = [tokenizer.convert_tokens_to_ids(e) for e in ends] if isinstance(ends, list) else ends
        settings = {k: v for k, v in json.loads(file.read_text()).items() if k != "eos_token_id"}
        file.write_text(json.dumps(settings | ({} if ids is None else {"eos_token_id": ids})))
        torch.manual_seed(0)
        return HFPolicy(str(folder), Sampling(**sampling), lora=None).eval()

    return make


def test_the_ends_are_the_tokenizers_and_the_settings(make_ending):
    assert make_ending(None).end_ids == (make_ending(None).end_id,)
    start = make_ending(None).processor.tokenizer.bos_token
    policy = make_ending([start, "a"])
    ids = policy.processor.tokenizer.convert_tokens_to_ids([start, "a"])
    assert policy.end_ids == (policy.end_id, *ids)
    assert not policy.banned[list(policy.end_ids)].any()
    assert make_ending(ids[0]).end_ids == (policy.end_id, ids[0])


def test_an_end_outside_of_the_vocabulary_is_named(make_ending):
    with pytest.raises(ValueError, match="names 99999 as an end token"):
        make_ending(99999)


def test_each_of_them_ends_a_completion_and_counts_in_the_distribution(make_ending, make_batch):
    policy = make_ending(["a"], max_new_tokens=4)
    only(policy, "a", "b")
    prefix = policy.encode(make_batch(1))
    drawn = policy.generate(prefix, 200)
    last = {row[mask].tolist()[-1] for row, mask in zip(drawn.tokens[0], drawn.completion_mask[0], strict=True)}
    assert {policy.end_id, policy.end_ids[1]} <= last
    is_end = torch.isin(drawn.tokens, torch.tensor(policy.end_ids)) & drawn.completion_mask
    assert (is_end.sum(-1) == (~drawn.is_truncated).long()).all()
    torch.testing.assert_close(policy.logprobs(prefix, drawn), drawn.logps, rtol=0, atol=2e-4)
    # Every sequence over {a, b, end} that stops at its first end or at 4 tokens: their probabilities sum to 1.
    b = policy.processor.tokenizer.convert_tokens_to_ids("b")
    ended = [[b] * length + [end] for length, end in itertools.product(range(4), policy.end_ids)]
    every = as_rollouts(policy, [*ended, [b] * 4])
    assert policy.logprobs(prefix, every).sum(-1).exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_plain_transformers_stops_at_the_same_token(make_ending, make_batch, tmp_path):
    batch = make_batch(1)
    free = make_ending(None, max_new_tokens=12)
    free.banned[free.end_id] = True
    said = free.generate(free.encode(batch), 1, greedy=True).tokens[0, 0]
    end = free.processor.tokenizer.convert_ids_to_tokens(said[5].item())
    policy = make_ending([end], max_new_tokens=12)
    tokens = policy.generate(policy.encode(batch), 1, greedy=True)
    policy.save_pretrained(tmp_path / "saved")
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved")
    assert plain.generation_config.eos_token_id == list(policy.end_ids)
    inputs = chat_inputs(policy.processor, batch, [policy.prompts.describe])
    banned = policy.banned.nonzero().flatten().tolist()
    written = plain.generate(**inputs, do_sample=False, max_new_tokens=12, suppress_tokens=banned)
    expected = written[0, inputs["input_ids"].shape[1] :]
    assert tokens.tokens[0, 0].tolist() == expected.tolist()
    assert len(expected) <= 6 < 12


def test_answers_over_a_grammar_end_as_written_ones_do(make_ending, make_batch):
    policy = make_ending(["a", "o"], max_new_tokens=150)
    prefix = policy.encode(make_batch(1))
    drawn = policy.generate(prefix, 8, grammar=AnswerGrammar())
    assert all(parse(text).is_valid for text in drawn.texts[0])
    assert not drawn.is_truncated.any()
    last = drawn.completion_mask.sum(-1, keepdim=True) - 1
    assert (drawn.tokens.gather(-1, last) == policy.end_id).all()
    logps = policy.logprobs(prefix, drawn, AnswerGrammar())
    torch.testing.assert_close(logps, drawn.logps, rtol=0, atol=2e-4)


@torch.no_grad()
def test_an_answer_has_ended_whichever_token_ends_it(make_ending, make_batch):
    """P(r | the others) compares p(with r) and p(without r), each the sum over the two ends."""
    policy = make_ending(["a"], max_new_tokens=30)
    prefix = policy.encode(make_batch(1))
    action, reasons = [0, 1, 0, 0], [0] * 21
    pair = [render(action, reasons), render(action, [1, *reasons[1:]])]
    probabilities = []
    for text in pair:
        ids = policy.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        both = as_rollouts(policy, [[*ids, end] for end in policy.end_ids])
        probabilities.append(policy.logprobs(prefix, both).sum(-1).logsumexp(-1))
    expected = torch.stack(probabilities).softmax(0)[1]
    found = reason_probabilities(policy, prefix, torch.tensor([action]), torch.tensor([reasons]))
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-3, atol=1e-6)
