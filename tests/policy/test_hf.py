"""The policy against plain transformers, against enumeration, and against itself in other arrangements."""

import itertools

import pytest
import torch

from lvad.losses.advantages import leave_one_out
from lvad.losses.policy_gradient import reinforce
from lvad.policy.grammar import AnswerGrammar
from lvad.text import parse, render
from lvad.types import Batch, Prefix, Rollouts

LAWS = [{}, {"temperature": 1.5, "top_k": 50, "top_p": 0.95}, {"temperature": 0.7, "top_k": 5}]


def pick(rollouts, scenes):
    texts = [rollouts.texts[i] for i in scenes]
    return Rollouts(*(field[scenes] for field in rollouts[:-1]), texts)


def pick_batch(batch, scenes):
    return Batch(*(field[scenes] if torch.is_tensor(field) else [field[i] for i in scenes] for field in batch))


@pytest.mark.parametrize("law", LAWS)
def test_gradient_pass_gives_the_log_probabilities_of_the_sampler(make_policy, make_batch, law):
    policy = make_policy(max_new_tokens=12, **law)
    prefix = policy.encode(make_batch(2, 1))
    rollouts = policy.generate(prefix, 4)
    logps = policy.logprobs(prefix, rollouts)
    torch.testing.assert_close(logps, rollouts.logps, rtol=0, atol=2e-4)


def test_log_probabilities_equal_those_of_transformers_on_separate_sequences(make_policy, make_batch):
    """The peer's way: K copies of prompt and image, each with its completion, through the model's own forward."""
    policy = make_policy(max_new_tokens=10, temperature=1.3)
    batch = make_batch(2)
    prefix = policy.encode(batch)
    rollouts = policy.generate(prefix, 3)
    inputs = policy._inputs(batch, [policy.prompts.describe])
    width = inputs["input_ids"].shape[1]
    for k in range(3):
        tokens = rollouts.tokens[0, k][rollouts.completion_mask[0, k]]
        ids = torch.cat([inputs["input_ids"], tokens[None]], 1)
        with torch.no_grad():
            logits = policy.vlm(input_ids=ids, pixel_values=inputs["pixel_values"]).logits[0, width - 1 : -1]
        logps = (logits / 1.3).masked_fill(policy.banned, -torch.inf).log_softmax(-1)
        expected = logps.gather(1, tokens[:, None]).squeeze(1)
        actual = policy.logprobs(prefix, rollouts)[0, k][rollouts.completion_mask[0, k]]
        torch.testing.assert_close(actual, expected, rtol=0, atol=2e-4)


def only(policy, *texts):
    """Ban all tokens but these and the end, so that every sequence can be listed."""
    ids = [policy.processor.tokenizer.convert_tokens_to_ids(t) for t in texts]
    policy.banned.fill_(True)
    policy.banned[[*ids, policy.end_id]] = False
    return ids


def every_completion(policy, ids, num_tokens):
    """All sequences over ids that end, or are cut at num_tokens."""
    for length in range(num_tokens):
        yield from ([*head, policy.end_id] for head in itertools.product(ids, repeat=length))
    yield from (list(head) for head in itertools.product(ids, repeat=num_tokens))


def as_rollouts(policy, sequences):
    width = max(map(len, sequences))
    tokens = torch.tensor([[s + [policy.pad_id] * (width - len(s)) for s in sequences]])
    mask = torch.tensor([[[True] * len(s) + [False] * (width - len(s)) for s in sequences]])
    zeros = torch.zeros(tokens.shape)
    return Rollouts(tokens, mask, zeros, zeros, ~mask.any(-1), [[""] * len(sequences)])


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
def test_samples_follow_the_density_over_whole_sequences(make_policy, make_batch, law):
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
        # RMSNorm and the rotary embedding of transformers compute in float32 whatever they are given.
        assert (actual + 2 * expected).norm() <= 1e-5 * expected.norm()


def test_log_probabilities_do_not_depend_on_padding_order_or_company(make_policy, make_batch):
    policy = make_policy(max_new_tokens=8)
    batch = make_batch(3, 1, 2)  # three prefix lengths
    rollouts = policy.generate(policy.encode(batch), 3)
    together = policy.logprobs(policy.encode(batch), rollouts)
    for scenes in ([0], [1], [2], [2, 0, 1]):
        alone = policy.logprobs(policy.encode(pick_batch(batch, scenes)), pick(rollouts, scenes))
        torch.testing.assert_close(alone, together[scenes], rtol=0, atol=2e-4)


def test_micro_batches_add_up_to_the_gradient_of_the_batch(make_policy, make_batch):
    policy = make_policy(max_new_tokens=8).double()
    batch = make_batch(1, 2)
    rollouts = policy.generate(policy.encode(batch), 3)
    advantages = torch.tensor([[1.0, -2.0, 1.0], [0.5, 0.5, -1.0]], dtype=torch.float64)

    def gradient(scenes, weight):
        logps = policy.logprobs(policy.encode(pick_batch(batch, scenes)), pick(rollouts, scenes))
        loss = weight * reinforce(logps, advantages[scenes], rollouts.completion_mask[scenes])
        return torch.autograd.grad(loss, [p for p in policy.parameters() if p.requires_grad])

    whole = gradient([0, 1], 1.0)
    for full, first, second in zip(whole, gradient([0], 0.5), gradient([1], 0.5), strict=True):
        assert (first + second - full).norm() <= 1e-5 * full.norm()


def test_completions_depend_on_their_own_images_alone(make_policy, make_batch):
    """Swapping the frames of two scenes swaps their log-probabilities; a policy blind to images would not move."""
    policy = make_policy(max_new_tokens=8)
    batch = make_batch(2, 2)
    rollouts = policy.generate(policy.encode(batch), 3)
    own = policy.logprobs(policy.encode(batch), rollouts)
    swapped = batch._replace(frames=batch.frames[::-1])
    other = policy.logprobs(policy.encode(swapped), rollouts)
    assert (own - other).abs().max() > 0.05
    mirrored = policy.logprobs(policy.encode(swapped), pick(rollouts, [1, 0]))
    torch.testing.assert_close(mirrored, own[[1, 0]], rtol=0, atol=2e-4)


def test_image_and_special_tokens_are_never_drawn(make_policy, make_batch):
    policy = make_policy(max_new_tokens=16, temperature=20.0)  # nearly uniform over the vocabulary
    rollouts = policy.generate(policy.encode(make_batch(1)), 64)
    drawn = set(rollouts.tokens[rollouts.completion_mask].tolist())
    special = set(policy.processor.tokenizer.all_special_ids) - {policy.end_id}
    assert len(drawn) > 100
    assert not drawn & special
    assert policy.vlm.config.image_token_id not in drawn


def test_what_follows_the_end_is_masked(make_policy, make_batch):
    policy = make_policy(max_new_tokens=6, temperature=3.0)
    only(policy, "a")
    rollouts = policy.generate(policy.encode(make_batch(1)), 64)
    ended = (rollouts.tokens == policy.end_id) & rollouts.completion_mask
    lengths = rollouts.completion_mask.sum(-1)
    assert (ended.sum(-1) == (~rollouts.is_truncated).long()).all()
    assert rollouts.is_truncated.any()
    assert (lengths[rollouts.is_truncated] == rollouts.tokens.shape[-1]).all()
    assert (rollouts.tokens[~rollouts.completion_mask] == policy.pad_id).all()
    assert (rollouts.logps[~rollouts.completion_mask] == 0).all()


@pytest.mark.parametrize("lora", [True, False])
def test_reference_stays_the_start_while_the_policy_moves(make_policy, make_batch, lora):
    policy = make_policy(lora=lora, spread=False, max_new_tokens=6)
    policy.keep_reference()
    batch = make_batch(1)
    prefix = policy.encode(batch)
    rollouts = policy.generate(prefix, 4)
    start = policy.logprobs(prefix, rollouts).detach()
    torch.testing.assert_close(policy.reference_logprobs(batch, prefix, rollouts), start, rtol=0, atol=1e-5)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    prefix = policy.encode(batch)
    torch.testing.assert_close(policy.reference_logprobs(batch, prefix, rollouts), start, rtol=0, atol=1e-5)
    assert (policy.logprobs(prefix, rollouts) - start).abs().max() > 1e-2


def test_full_training_without_a_kept_reference_is_an_error(make_policy, make_batch):
    policy = make_policy(lora=False, max_new_tokens=2)
    prefix = policy.encode(make_batch(1))
    with pytest.raises(RuntimeError, match="keep_reference"):
        policy.reference_logprobs(make_batch(1), prefix, policy.generate(prefix, 2))


def test_a_frozen_tower_gets_no_gradient_and_a_trained_one_does(make_policy, make_batch):
    for lora in (True, False):
        policy = make_policy(lora=lora, max_new_tokens=3)
        prefix = policy.encode(make_batch(1))
        assert prefix.embeds.requires_grad is not lora
        policy.logprobs(prefix, policy.generate(prefix, 2)).sum().backward()
        grads = [p.grad for p in policy.vlm.model.vision_model.parameters()]
        assert all((g is None) == lora for g in grads)


def test_gradient_checkpointing_changes_no_gradient(vlm_folder, make_batch):
    from lvad.policy.hf import HFPolicy, Lora

    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        policy = HFPolicy(str(vlm_folder), lora=Lora(rank=4), gradient_checkpointing=checkpointing).train()
        prefix = policy.encode(make_batch(1))
        with torch.random.fork_rng():
            rollouts = policy.generate(prefix, 3)
        assert policy.training
        policy.logprobs(prefix, rollouts).sum().backward()
        grads.append([p.grad for p in policy.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_the_vision_tower_runs_once_whatever_k_and_length(make_policy, make_batch):
    policy = make_policy(max_new_tokens=8)
    calls = []
    policy.vlm.model.vision_model.register_forward_hook(lambda *_: calls.append(1))
    prefix = policy.encode(make_batch(2, 2))
    rollouts = policy.generate(prefix, 8)
    policy.logprobs(prefix, rollouts)
    policy.reference_logprobs(make_batch(2, 2), prefix, rollouts)
    assert len(calls) == 1


def test_targets_are_the_supervised_likelihood(make_policy, make_batch):
    policy = make_policy()
    targets = policy.targets([["a car", "a red car ahead"]])
    assert targets.tokens[0, 0][targets.completion_mask[0, 0]][-1] == policy.end_id
    assert policy._decode(targets.tokens, targets.completion_mask) == [["a car", "a red car ahead"]]
    assert policy.logprobs(policy.encode(make_batch(1)), targets).isfinite().all()
    with pytest.raises(ValueError, match="as many texts"):
        policy.targets([["a"], ["b", "c"]])


def test_a_saved_policy_says_the_same_in_plain_transformers(make_policy, make_batch, tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    policy = make_policy(max_new_tokens=8)
    batch = make_batch(1)
    said = policy.generate(policy.encode(batch), 1, greedy=True)
    policy.save_pretrained(tmp_path)
    model, processor = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    inputs = policy._inputs(batch, [policy.prompts.describe])
    new = model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"]).logits
    old = policy.vlm(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"]).logits
    torch.testing.assert_close(new, old, rtol=0, atol=1e-3)
    assert processor.tokenizer.eos_token_id == policy.end_id
    assert said.texts[0][0] == policy._decode(said.tokens, said.completion_mask)[0][0]


def test_an_unknown_folder_and_a_foreign_model_are_named(tmp_path):
    from transformers import LlamaConfig

    from lvad.policy.hf import HFPolicy

    with pytest.raises(FileNotFoundError, match="no model folder"):
        HFPolicy(str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match="no embedded model 'embedded/nothing'"):
        HFPolicy("embedded/nothing")
    LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="llama"):
        HFPolicy(str(tmp_path))


def test_prefix_is_a_named_tuple_that_can_be_cut(make_policy, make_batch):
    prefix = make_policy().encode(make_batch(1, 3))
    cut = Prefix(*(part[:1] for part in prefix))
    assert cut.prefix_mask.sum() < cut.prefix_mask.shape[1]


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
def test_gradient_pass_gives_the_masked_log_probabilities_of_the_sampler(make_policy, make_batch, law, monkeypatch):
    monkeypatch.setattr("lvad.policy.hf._HEAD_ROWS", 64)  # several slices
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
    tokens = policy._tokens_of(grammar)
    frontier = [([], tokens.start(1, num_tokens).places[0])]
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
    prefix = policy.encode(make_batch(1))

    def log_probabilities():
        return policy.logprobs(prefix, sequences, grammar).sum(-1)[0]

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
