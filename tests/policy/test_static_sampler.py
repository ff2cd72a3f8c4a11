"""The accelerator's sampler on a CPU: the tokens of the other sampler for the same random numbers, in static shapes."""

import copy

import pytest
import torch
from listing import only
from torch.utils._python_dispatch import TorchDispatchMode

from lvad.policy import HFPolicy, Lora, Sampling, static_sampler
from lvad.policy.grammar import AnswerGrammar
from lvad.policy.static_kv_cache import StaticShape
from lvad.policy.tokens import without_end
from lvad.text import parse

LAWS = [{}, {"temperature": 1.5, "top_k": 50, "top_p": 0.95}, {"temperature": 0.7, "top_k": 5}]


@pytest.fixture
def in_turn(monkeypatch):
    """Draw with each sampler, with the same random numbers."""

    def draw(policy, batch, *args, seed=1, **kwargs):
        drawn = []
        with torch.no_grad():
            prefix = policy.encode(batch)
        for is_static in (False, True):
            monkeypatch.setattr("lvad.policy.hf.uses_static_shapes", lambda _, answer=is_static: answer)
            torch.manual_seed(seed)
            drawn.append(policy.generate(prefix, *args, **kwargs))
        return drawn

    return draw


def assert_same(found, expected, tolerance=2e-4):
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.completion_mask, expected.completion_mask)
    assert torch.equal(found.is_truncated, expected.is_truncated)
    assert found.texts == expected.texts
    torch.testing.assert_close(found.logps, expected.logps, rtol=0, atol=tolerance)
    torch.testing.assert_close(found.entropies, expected.entropies, rtol=0, atol=tolerance)


@pytest.mark.parametrize("frames", [(1,), (2, 1, 3, 2, 1)], ids=["one scene", "mixed lengths"])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("law", LAWS, ids=str)
def test_both_samplers_draw_the_same_tokens(make_policy, make_batch, in_turn, law, lora, frames):
    policy = make_policy(lora, spread=lora, max_new_tokens=12, **law)
    expected, found = in_turn(policy, make_batch(*frames), 4)
    assert_same(found, expected)
    assert len({text for row in found.texts for text in row}) > 1


def test_completions_end_at_different_times_and_what_follows_is_padding(make_policy, make_batch, in_turn):
    policy = make_policy(max_new_tokens=90)
    only(policy, "a", "b", "c")
    expected, found = in_turn(policy, make_batch(1, 2), 8)
    assert_same(found, expected)
    lengths = found.completion_mask.sum(-1)
    assert lengths.unique().numel() > 3
    assert found.tokens.shape[-1] == lengths.max() < 90
    assert (found.tokens[~found.completion_mask] == policy.pad_id).all()


def test_in_float64_they_are_equal(make_policy, make_batch, in_turn):
    policy = make_policy(max_new_tokens=10, temperature=1.3).double()
    expected, found = in_turn(policy, make_batch(1, 2), 3)
    assert found.logps.dtype == torch.float64
    assert_same(found, expected, tolerance=1e-10)


def test_greedy_draws_no_random_number(make_policy, make_batch, in_turn):
    policy = make_policy(max_new_tokens=10)
    expected, found = in_turn(policy, make_batch(1, 2), 1, greedy=True)
    assert_same(found, expected)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    in_turn(policy, make_batch(1), 1, greedy=True, seed=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_grammar_and_given_beginnings(make_policy, make_batch, in_turn):
    policy = make_policy(max_new_tokens=60)
    begin = policy.targets([["Action: stop."], ["Action: forward, left."]])
    begin = begin._replace(completion_mask=without_end(begin))
    for options in ({"grammar": AnswerGrammar()}, {"grammar": AnswerGrammar(), "begin": begin}, {"begin": begin}):
        expected, found = in_turn(policy, make_batch(1, 2), 1, **options)
        assert_same(found, expected)
        assert "grammar" not in options or all(parse(text).is_valid for row in found.texts for text in row)
    assert found.texts[0][0].startswith("Action: stop.")


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_an_update_of_the_weights_is_seen_without_a_new_sampler(make_policy, make_batch, in_turn, lora, monkeypatch):
    policy, made = make_policy(lora, spread=lora, max_new_tokens=6).double(), []
    init = static_sampler.StaticSampler.__init__
    monkeypatch.setattr(
        static_sampler.StaticSampler, "__init__", lambda self, *args: made.append(self) or init(self, *args)
    )
    before, _ = in_turn(policy, make_batch(1, 2), 4)
    with torch.no_grad():
        for parameter in policy.vlm.model.text_model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    expected, found = in_turn(policy, make_batch(1, 2), 4)
    assert_same(found, expected, tolerance=1e-10)
    assert not torch.equal(before.logps, expected.logps)
    assert len(made) == 1


def test_switched_off_adapters_need_another_sampler(make_policy, make_batch, in_turn):
    policy = make_policy(max_new_tokens=6)
    trained, _ = in_turn(policy, make_batch(1), 4)
    with policy.model.disable_adapter():
        expected, found = in_turn(policy, make_batch(1), 4)
    assert_same(found, expected)
    assert not torch.equal(trained.logps, expected.logps)


@pytest.mark.parametrize("half", ["weights", "autocast"])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_in_half_precision_both_are_as_far_from_the_exact_law(make_policy, make_batch, in_turn, half, lora):
    policy = make_policy(lora, spread=lora, max_new_tokens=8)
    batch = make_batch(1, 2)
    with torch.no_grad():
        prefix = policy.encode(batch)
    exact, rollouts = policy, in_turn(policy, batch, 4)[0]
    begin = rollouts._replace(completion_mask=rollouts.completion_mask)
    expected_logps = exact.logprobs(prefix, rollouts).detach()
    if half == "weights":
        policy = copy.deepcopy(policy).bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=half == "autocast"):
        plain, static = in_turn(policy, batch, 4, begin=begin)
    assert torch.equal(plain.tokens, rollouts.tokens)
    assert torch.equal(static.tokens, rollouts.tokens)
    errors = [(drawn.logps - expected_logps).norm() for drawn in (plain, static)]
    assert errors[1] <= 1.3 * errors[0]


def test_a_base_in_four_bits(vlm_folder, make_batch, in_turn):
    torch.manual_seed(0)
    policy = HFPolicy(str(vlm_folder), Sampling(max_new_tokens=6), lora=Lora(rank=4), in_four_bits=True)
    expected, found = in_turn(policy, make_batch(1), 3)
    assert_same(found, expected)


class Calls(TorchDispatchMode):
    """What is asked of the device, operator by operator."""

    READS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "item")

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    @property
    def reads(self):
        return sum(name in self.READS for name in self.names)


def test_the_host_reads_nothing_while_it_draws_but_whether_all_have_ended(make_policy, make_batch, monkeypatch):
    policy = make_policy(max_new_tokens=40)
    policy.banned[policy.end_id] = True
    with torch.no_grad():
        prompt_cache = policy.encode(make_batch(1, 2)).prompt_cache
    stop = static_sampler.StopCriteria(policy.end_ids, policy.pad_id, 40)
    options = static_sampler.SamplerOptions(policy.sampling, stop, is_greedy=False, has_grammar=False)
    sampler = policy._samplers.get(policy.vlm, policy.banned, options, prompt_cache, 4, use_cuda_graph=False)
    with Calls() as calls:
        sampler(prompt_cache, None, None)
    assert calls.reads == 4 + 1  # looks at tokens 8, 16, 24 and 32, and the number of tokens at the end
    with Calls() as calls, torch.no_grad():
        sampler._rewind()
        sampler._decode_token()
    assert calls.reads == 0


def test_shapes_are_kept_and_the_oldest_leave(make_policy, make_batch, monkeypatch):
    policy = make_policy(max_new_tokens=3)
    monkeypatch.setattr("lvad.policy.hf.uses_static_shapes", lambda _: True)
    for completions in (1, 2, 3, 4, 5, 6, 5):
        policy.generate(policy.encode(make_batch(1)), completions)
    assert len(policy._samplers._kept) == 3
    assert not copy.deepcopy(policy)._samplers._kept


def test_a_shape_has_room_and_is_at_most_a_quarter_empty():
    for length in range(1, 3000):
        shape = StaticShape.rounded_up((length,) * 3, 5, 48)
        assert shape == StaticShape(3, 5, shape.prompt_tokens, 48)
        assert length <= shape.prompt_tokens <= max(length + 15, length * 1.25)
    sizes = {StaticShape.rounded_up((1,) * scenes, 1, 8).num_scenes for scenes in range(1, 65)}
    assert len(sizes) < 24
    assert StaticShape.rounded_up((5, 70, 33), 2, 41) == StaticShape(3, 2, 80, 48)


def test_every_token_costs_the_same_calls(make_policy, make_batch):
    """Static shapes: what is captured for one token is what every other one asks for."""
    policy = make_policy(max_new_tokens=8)
    with torch.no_grad():
        prompt_cache = policy.encode(make_batch(1, 1)).prompt_cache
        stop = static_sampler.StopCriteria(policy.end_ids, policy.pad_id, 8)
        options = static_sampler.SamplerOptions(policy.sampling, stop, is_greedy=False, has_grammar=False)
        sampler = policy._samplers.get(policy.vlm, policy.banned, options, prompt_cache, 4, use_cuda_graph=False)
        sampler(prompt_cache, None, None)
        sampler._rewind()
        calls = []
        for _ in range(3):
            with Calls() as one:
                sampler._decode_token()
            calls.append(one.names)
    assert calls[0] == calls[1] == calls[2]


def test_a_sampler_of_validation_serves_training(make_policy, make_batch, monkeypatch):
    policy = make_policy(max_new_tokens=5).train()
    monkeypatch.setattr("lvad.policy.hf.uses_static_shapes", lambda _: True)
    batch = make_batch(1, 2)
    with torch.inference_mode():
        policy.logprobs(prefix := policy.encode(batch), policy.generate(prefix, 3))
    prefix = policy.encode(batch)
    policy.logprobs(prefix, policy.generate(prefix, 3)).sum().backward()
    assert len(policy._samplers._kept) == 1
    assert any(p.grad is not None and p.grad.any() for p in policy.parameters())


@pytest.mark.gpu
def test_a_captured_token_draws_what_an_eager_one_draws(make_policy, make_batch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    policy = make_policy(max_new_tokens=20).cuda()
    batch = make_batch(1, 2)
    batch = batch._replace(frames=[frames.cuda() for frames in batch.frames])
    prefix, drawn = policy.encode(batch), []
    for captures in (False, True, True):
        policy.cuda_graphs = captures
        torch.cuda.manual_seed(0)
        drawn.append(policy.generate(prefix, 4))
    for other in drawn[1:]:
        assert_same(other, drawn[0])
