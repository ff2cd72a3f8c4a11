"""The shared passes against K separate sequences through the model's own forward: gradients, tokens, memory."""

import gc
import weakref

import pytest
import torch
from listing import only
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from lvad.losses.policy_gradient import reinforce
from lvad.policy.decoder import Decoder, TokenPass
from lvad.policy.hf import HFPolicy, Lora
from lvad.policy.passes import prompt_pass
from lvad.policy.pixels import Tiling
from lvad.policy.sampling import Sampling, sample_tokens
from lvad.policy.tokens import chat_inputs
from lvad.types import Rollouts

NUM_COMPLETIONS = 4


@pytest.fixture
def in_float64(monkeypatch):
    """Transformers computes the rotary embedding in float32 whatever it is given."""

    def rotary(self, x, position_ids):
        angles = position_ids.unsqueeze(-1).to(x.dtype) * self.inv_freq.to(x.dtype)
        angles = torch.cat([angles, angles], -1)
        return angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling

    monkeypatch.setattr(LlamaRotaryEmbedding, "forward", rotary)


def make(vlm_folder, lora=False, dtype=torch.float64, **options):
    torch.manual_seed(0)
    policy = HFPolicy(
        str(vlm_folder),
        Sampling(temperature=1.3, max_new_tokens=7),
        lora=Lora(rank=4) if lora else None,
        freeze_vision=lora,
        **options,
    ).to(dtype)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    return policy


def separate_logps(policy, batch, rollouts):
    """The peers' way: every completion with a prompt and images of its own, nothing shared, nothing padded."""
    rows = []
    for scene, frames in enumerate(batch.frames):
        single = batch._replace(frames=[frames])
        inputs = chat_inputs(policy.processor, single, [policy.prompts.describe])
        width = inputs["input_ids"].shape[1]
        tiling = Tiling.of(policy.processor.image_processor)  # the processors' variants round in their own ways
        pixels = tiling.pixel_values(tiling.tiles(frames).flatten(0, 1))[None]
        for k in range(rollouts.tokens.shape[1]):
            tokens = rollouts.tokens[scene, k][rollouts.completion_mask[scene, k]]
            logits = policy.vlm(
                input_ids=torch.cat([inputs["input_ids"], tokens[None]], 1),
                pixel_values=pixels.to(policy.vlm.dtype),
            ).logits[0, width - 1 : -1]
            logps = (logits / 1.3).masked_fill(policy.banned, -torch.inf).log_softmax(-1)
            rows.append(F.pad(logps.gather(1, tokens[:, None])[:, 0], (0, rollouts.tokens.shape[2] - len(tokens))))
    return torch.stack(rows).view(rollouts.tokens.shape)


def rollouts_of_all_lengths(policy, batch):
    """Random completions of 7, 1, 4 and 2 tokens."""
    generator = torch.Generator().manual_seed(0)
    ordinary = (~policy.banned).nonzero().squeeze(1)
    shape = (len(batch.ids), NUM_COMPLETIONS, 7)
    tokens = ordinary[torch.randint(len(ordinary), shape, generator=generator)]
    mask = torch.arange(7) < torch.tensor([7, 1, 4, 2])[:, None]
    mask = torch.stack([mask.roll(scene, 0) for scene in range(len(batch.ids))])
    zeros = torch.zeros(shape)
    return Rollouts(tokens, mask, zeros, zeros, ~mask.any(-1), [[""] * NUM_COMPLETIONS] * len(batch.ids))


def gradients(policy, logps, rollouts):
    advantages = torch.linspace(-1, 2, logps[..., 0].numel(), dtype=logps.dtype).view(logps.shape[:2])
    policy.zero_grad()
    reinforce(logps, advantages, rollouts.completion_mask).backward()
    # The true gradient of a vision key's bias is zero: the softmax does not see a shift of all scores.
    return {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None and "k_proj.bias" not in n}


@pytest.mark.parametrize("frames", [(1,), (2, 1, 2, 3)], ids=["one scene", "mixed lengths"])
@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}, {"completions_at_once": 3}], ids=str)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
def test_gradients_equal_those_of_separate_sequences(
    vlm_folder, make_batch, in_float64, lora, options, frames, dtype, tolerance
):
    policy = make(vlm_folder, lora, dtype, **options).train()
    batch = make_batch(*frames)
    rollouts = rollouts_of_all_lengths(policy, batch)
    ours = gradients(policy, policy.logprobs(policy.encode(batch), rollouts), rollouts)
    theirs = gradients(policy, separate_logps(policy, batch, rollouts), rollouts)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 30
    for name, expected in theirs.items():
        assert (ours[name] - expected).norm() <= tolerance * expected.norm(), name


def test_micro_batches_over_scenes_add_up(vlm_folder, make_batch, in_float64):
    policy = make(vlm_folder)
    batch = make_batch(1, 2)
    rollouts = rollouts_of_all_lengths(policy, batch)
    whole = gradients(policy, policy.logprobs(policy.encode(batch), rollouts), rollouts)
    parts = []
    for scene in (0, 1):
        single = batch._replace(ids=batch.ids[scene : scene + 1], frames=batch.frames[scene : scene + 1])
        some = rollouts._replace(tokens=rollouts.tokens[scene : scene + 1],
                                 completion_mask=rollouts.completion_mask[scene : scene + 1])  # fmt: skip
        logps = policy.logprobs(policy.encode(single), some)
        advantages = torch.linspace(-1, 2, 2 * NUM_COMPLETIONS, dtype=logps.dtype).view(2, -1)[scene : scene + 1]
        policy.zero_grad()
        (0.5 * reinforce(logps, advantages, some.completion_mask)).backward()
        parts.append({n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None})
    for name, expected in whole.items():
        assert (parts[0][name] + parts[1][name] - expected).norm() <= 1e-10 * expected.norm(), name


@pytest.mark.parametrize("frames", [(1,), (2, 1, 2)], ids=["one scene", "mixed lengths"])
def test_the_sampler_draws_what_a_plain_one_draws_with_the_same_random_numbers(
    vlm_folder, make_batch, in_float64, frames
):
    policy = make(vlm_folder).eval()
    only(policy, "a", "b", "c")
    batch, num = make_batch(*frames), NUM_COMPLETIONS * len(frames)
    torch.manual_seed(1)
    drawn = policy.generate(policy.encode(batch), NUM_COMPLETIONS)
    assert drawn.completion_mask.sum(-1).unique().numel() > 1  # some ended early and left the batch
    torch.manual_seed(1)
    uniform = torch.stack([torch.rand(num) for _ in range(drawn.tokens.shape[2])], 1)
    for row in range(num):
        scene, k = divmod(row, NUM_COMPLETIONS)
        inputs = chat_inputs(policy.processor, batch._replace(frames=[batch.frames[scene]]), [policy.prompts.describe])
        ids, said = inputs["input_ids"], []
        while len(said) < policy.sampling.max_new_tokens and said[-1:] != [policy.end_id]:
            with torch.no_grad():
                logits = policy.vlm(input_ids=ids, pixel_values=inputs["pixel_values"].double()).logits[:, -1]
            logps = (logits / 1.3).masked_fill(policy.banned, -torch.inf).log_softmax(-1)
            said.append(int(sample_tokens(logps, uniform[row, len(said)][None])))
            ids = torch.cat([ids, torch.tensor([said[-1:]])], 1)
        assert drawn.tokens[scene, k][drawn.completion_mask[scene, k]].tolist() == said


def test_no_pass_feeds_padding(vlm_folder, make_batch):
    """Positions through the text model: the prompts once, and every token that predicts another."""
    policy = make(vlm_folder, dtype=torch.float32).eval()
    batch = make_batch(1, 3, 1)
    rollouts = rollouts_of_all_lengths(policy, batch)
    fed = []
    policy.vlm.model.text_model.register_forward_pre_hook(
        lambda _, __, kwargs: fed.append(kwargs["inputs_embeds"].shape[:2]), with_kwargs=True
    )
    prefix = policy.encode(batch)
    policy.logprobs(prefix, rollouts)
    num_fed = int(rollouts.completion_mask[:, :, 1:].sum())
    assert fed == [(1, sum(prefix.lengths)), (1, num_fed)]


def test_completions_that_end_leave_the_batch(vlm_folder, make_batch, monkeypatch):
    policy = make(vlm_folder, dtype=torch.float32).eval()
    only(policy, "a")
    rows, read = [], TokenPass.__call__
    monkeypatch.setattr(
        TokenPass, "__call__", lambda self, embeds, *rest: rows.append(len(embeds)) or read(self, embeds, *rest)
    )
    torch.manual_seed(0)
    drawn = policy.generate(policy.encode(make_batch(1)), 32)
    alive = drawn.completion_mask.sum((0, 1)).tolist()[1:]
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] < 32
    assert all(needed <= fed <= needed / 0.875 + 1 for needed, fed in zip(alive, rows, strict=True))


def test_prompts_are_not_copied_for_their_completions(vlm_folder, make_batch):
    policy = make(vlm_folder, dtype=torch.float32).eval()
    with torch.no_grad():
        prompt_cache = policy.encode(make_batch(2, 2)).prompt_cache
    decoder = Decoder(policy.vlm.model.text_model, prompt_cache, 16, 4)
    for layer, pairs in enumerate(decoder._prompts):
        assert pairs[0][0].data_ptr() == prompt_cache.keys[layer].data_ptr()
        assert pairs[0][1].data_ptr() == prompt_cache.values[layer].data_ptr()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_a_step_keeps_is_freed_even_without_a_backward_pass(vlm_folder, make_batch, checkpointing):
    policy = make(vlm_folder, dtype=torch.float32, gradient_checkpointing=checkpointing).train()
    batch = make_batch(1)
    prefix = policy.encode(batch)
    kept = weakref.ref(prefix.prompt_cache.keys[0])
    policy.logprobs(prefix, policy.generate(prefix, 2))
    del prefix
    gc.collect()
    assert kept() is None


def test_prompts_alone_give_the_models_own_states(vlm_folder, make_batch):
    policy = make(vlm_folder, dtype=torch.float32).eval()
    batch = make_batch(2)
    inputs = chat_inputs(policy.processor, batch, [policy.prompts.describe])
    with torch.no_grad():
        own = policy.vlm.model(**{k: inputs[k] for k in ("input_ids", "pixel_values")}).last_hidden_state[0, -1]
        prefix = policy.encode(batch)
        again = prompt_pass(policy.text_model, prefix.prompt_cache.inputs)
    torch.testing.assert_close(prefix.prompt_cache.last[0], own, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again.last, prefix.prompt_cache.last)
