"""Each family behind the engine against plain transformers: tiny models of the real classes, nothing shared."""

import pytest
import torch
from float64 import lift_roundings
from listing import only
from tiny_families import FAMILIES
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText, AutoProcessor

from lvad.losses.policy_gradient import reinforce
from lvad.policy import HFPolicy, Lora, Sampling
from lvad.policy.adapters import adapted
from lvad.policy.decoder import Decoder
from lvad.policy.families.idefics3 import TiledFrameEncoder
from lvad.policy.passes import completion_pass
from lvad.policy.sampling import sample_tokens
from lvad.policy.tokens import chat_inputs
from lvad.policy.vision import VisionCache
from lvad.types import UNLABELLED, Batch, Rollouts

NUM_COMPLETIONS, LENGTH, TEMPERATURE = 4, 7, 1.3
QUESTIONS = ["What does the driver do?", "Why? Name the reasons that you see, shortly."]
ADAPTERS = Lora(rank=4)

families = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture
def in_float64(monkeypatch):
    lift_roundings(monkeypatch)


@pytest.fixture
def make(family_folder):
    """A policy, sharpened adapters in place."""

    def make(name, lora=False, dtype=torch.float32, **options):
        torch.manual_seed(0)
        law = Sampling(temperature=TEMPERATURE, max_new_tokens=LENGTH)
        options = {"freeze_vision": lora, "lora": ADAPTERS if lora else None} | options
        policy = HFPolicy(str(family_folder(name)), law, **options).to(dtype)
        with torch.no_grad():
            for key, parameter in policy.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(0, 0.2)
        return policy

    return make


def two_scenes():
    """One frame, and two of another size: other numbers of tokens, and for LLaVA-OneVision tiles and none."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(1, 84, 140), (2, 60, 96)]
    frames = [torch.randint(0, 256, (m, 3, h, w), generator=generator, dtype=torch.uint8) for m, h, w in sizes]
    unlabelled = torch.full((2, 4), UNLABELLED)
    return Batch(["one", "two"], frames, unlabelled, unlabelled, [(), ()], [None, None], ["one", "two"])


def plain_model(policy, **options):
    """The folder's model as transformers loads it, with the policy's weights."""
    model = AutoModelForImageTextToText.from_pretrained(policy.source, dtype=policy.vlm.dtype, **options)
    if policy.model is not policy.vlm:
        model = adapted(model, ADAPTERS)
    model.load_state_dict(policy.model.state_dict())
    return model.to(policy.vlm.dtype).train(policy.training)  # also buffers that are in no checkpoint


def plain_inputs(policy, batch, scene):
    """What the processor makes of one scene."""
    alone = batch._replace(frames=[batch.frames[scene]])
    inputs = dict(chat_inputs(policy.processor, alone, [QUESTIONS[scene]]))
    frames = policy.prompt_ids.frame_encoder
    if isinstance(frames, TiledFrameEncoder):  # the variants of its processor round in their own ways
        tiles = frames.tiling.tiles(batch.frames[scene]).flatten(0, 1)
        inputs = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        inputs["pixel_values"] = frames.tiling.pixel_values(tiles)[None]
    inputs["pixel_values"] = inputs["pixel_values"].to(policy.vlm.dtype)
    return inputs


def longer(inputs, tokens):
    """The inputs with more words behind them."""
    inputs = dict(inputs, input_ids=torch.cat([inputs["input_ids"], tokens[None]], 1))
    for key, filling in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        if key in inputs:
            inputs[key] = F.pad(inputs[key], (0, len(tokens)), value=filling)
    return inputs


def separate_logps(policy, plain, batch, rollouts):
    """Every completion with a prompt and frames of its own."""
    rows = []
    for scene in range(len(batch.ids)):
        inputs = plain_inputs(policy, batch, scene)
        for k in range(rollouts.tokens.shape[1]):
            tokens = rollouts.tokens[scene, k][rollouts.completion_mask[scene, k]]
            width = inputs["input_ids"].shape[1]
            logits = plain(**longer(inputs, tokens), use_cache=False).logits[0, width - 1 : -1]
            logps = (logits / TEMPERATURE).masked_fill(policy.banned, -torch.inf).log_softmax(-1)
            rows.append(F.pad(logps.gather(1, tokens[:, None])[:, 0], (0, rollouts.tokens.shape[2] - len(tokens))))
    return torch.stack(rows).view(rollouts.tokens.shape)


def random_rollouts(policy, num_scenes=2):
    """Completions of 7, 1, 4 and 2 tokens, in another order for each scene."""
    generator = torch.Generator().manual_seed(0)
    ordinary = (~policy.banned).nonzero().squeeze(1)
    shape = (num_scenes, NUM_COMPLETIONS, LENGTH)
    tokens = ordinary[torch.randint(len(ordinary), shape, generator=generator)]
    mask = torch.arange(LENGTH) < torch.tensor([7, 1, 4, 2])[:, None]
    mask = torch.stack([mask.roll(scene, 0) for scene in range(num_scenes)])
    zeros = torch.zeros(shape)
    return Rollouts(tokens, mask, zeros, zeros, ~mask.any(-1), [[""] * NUM_COMPLETIONS] * num_scenes)


def gradients(model, logps, rollouts):
    model.zero_grad()
    advantages = torch.linspace(-1, 2, logps[..., 0].numel(), dtype=logps.dtype).view(logps.shape[:2])
    reinforce(logps, advantages, rollouts.completion_mask).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@families
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_log_probabilities_and_gradients_equal_those_of_separate_sequences(make, in_float64, name, lora):
    policy, batch = make(name, lora, torch.float64).train(), two_scenes()
    rollouts, plain = random_rollouts(policy), plain_model(policy)
    ours = policy.logprobs(policy.encode(batch, QUESTIONS), rollouts)
    theirs = separate_logps(policy, plain, batch, rollouts)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    assert theirs.abs().max() > 3
    found = gradients(policy.model, ours, rollouts)
    expected = gradients(plain, theirs, rollouts)
    assert found.keys() == expected.keys()
    assert len(found) > 30
    assert any("vis" in key for key in found) == (not lora)
    whole = torch.stack([grad.norm() for grad in expected.values()]).norm()
    for key, grad in expected.items():
        # A shift of all scores is not seen by the softmax: the true gradient of a vision encoder's keys' bias is zero.
        assert (found[key] - grad).norm() <= 1e-10 * max(grad.norm(), 1e-4 * whole), key


@families
def test_greedy_texts_are_those_of_generate(make, name):
    policy, batch = make(name).eval(), two_scenes()
    plain = plain_model(policy)
    with torch.no_grad():
        said = policy.generate(policy.encode(batch, QUESTIONS), 1, greedy=True)
    never = policy.banned.nonzero().flatten().tolist()
    for scene in range(2):
        inputs = plain_inputs(policy, batch, scene)
        found = plain.generate(**inputs, do_sample=False, max_new_tokens=LENGTH, suppress_tokens=never)
        expected = found[0, inputs["input_ids"].shape[1] :].tolist()
        assert said.tokens[scene, 0][said.completion_mask[scene, 0]].tolist() == expected
        assert len(set(expected)) > 2


@families
def test_the_sampler_draws_by_inversion_of_the_plain_models_law(make, in_float64, name):
    policy, batch = make(name, dtype=torch.float64).eval(), two_scenes()
    only(policy, *"abcd")
    plain = plain_model(policy)
    torch.manual_seed(1)
    with torch.no_grad():
        drawn = policy.generate(policy.encode(batch, QUESTIONS), NUM_COMPLETIONS)
    assert drawn.completion_mask.sum(-1).unique().numel() > 1  # some ended early and left the batch
    torch.manual_seed(1)
    uniform = torch.stack([torch.rand(2 * NUM_COMPLETIONS) for _ in range(drawn.tokens.shape[2])], 1)
    for row in range(2 * NUM_COMPLETIONS):
        scene, k = divmod(row, NUM_COMPLETIONS)
        inputs, said = plain_inputs(policy, batch, scene), []
        while len(said) < LENGTH and said[-1:] != [policy.end_id]:
            with torch.no_grad():
                logits = plain(**longer(inputs, torch.tensor(said, dtype=torch.long))).logits[:, -1]
            logps = (logits / TEMPERATURE).masked_fill(policy.banned, -torch.inf).log_softmax(-1)
            said.append(int(sample_tokens(logps, uniform[row, len(said)][None])))
        assert drawn.tokens[scene, k][drawn.completion_mask[scene, k]].tolist() == said


@families
def test_the_sampler_of_static_shapes_draws_the_same(make, name, monkeypatch):
    policy = make(name, True, torch.float64).eval()
    with torch.no_grad():
        prefix, drawn = policy.encode(two_scenes(), QUESTIONS), []
    for is_static in (False, True):
        monkeypatch.setattr("lvad.policy.hf.uses_static_shapes", lambda _, answer=is_static: answer)
        torch.manual_seed(1)
        drawn.append(policy.generate(prefix, NUM_COMPLETIONS))
    plain, fixed = drawn
    assert torch.equal(fixed.tokens, plain.tokens)
    assert torch.equal(fixed.completion_mask, plain.completion_mask)
    torch.testing.assert_close(fixed.logps, plain.logps, rtol=0, atol=1e-10)
    again = policy.logprobs(prefix, plain)
    torch.testing.assert_close(plain.logps, again.detach(), rtol=0, atol=1e-5)  # rotary positions are float32


@families
def test_states_token_by_token_are_those_of_the_layers(make, in_float64, name):
    policy = make(name, True, torch.float64).eval()
    tokens = random_rollouts(policy).tokens
    with torch.no_grad():
        prompt_cache = policy.encode(two_scenes(), QUESTIONS).prompt_cache
        embeds = policy.vlm.get_input_embeddings()(tokens)
        counts = [[LENGTH] * NUM_COMPLETIONS] * 2
        expected = completion_pass(policy.text_model, prompt_cache, embeds.flatten(0, 2), counts)
        steps = Decoder(policy.text_model, prompt_cache, NUM_COMPLETIONS, LENGTH)
        found = [steps.advance(embeds[:, :, t].flatten(0, 1)) for t in range(LENGTH)]
    torch.testing.assert_close(torch.stack(found, 1).flatten(0, 1), expected, rtol=0, atol=1e-11)


@families
def test_the_reference_is_the_start(make, in_float64, name):
    """The log-probabilities of which KL is made, of the model without adapters and of a kept copy."""
    policy, batch = make(name, True, torch.float64).train(), two_scenes()
    rollouts = random_rollouts(policy)
    prefix = policy.encode(batch, QUESTIONS)
    expected = separate_logps(policy, plain_model(make(name, dtype=torch.float64)), batch, rollouts)
    found = policy.reference_logprobs(batch, prefix, rollouts)
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-11)
    assert (policy.logprobs(prefix, rollouts) - found).abs().max() > 0.1


@families
def test_a_whole_models_reference_is_a_copy(make, in_float64, name):
    policy, batch = make(name, False, torch.float64).train(), two_scenes()._replace(ids=["one"])
    batch = batch._replace(frames=batch.frames[:1])
    rollouts = random_rollouts(policy, 1)
    policy.keep_reference()
    before = policy.logprobs(policy.encode(batch), rollouts).detach()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    prefix = policy.encode(batch)
    torch.testing.assert_close(policy.reference_logprobs(batch, prefix, rollouts), before, rtol=0, atol=1e-11)
    assert (policy.logprobs(prefix, rollouts) - before).abs().max() > 0.1


@families
def test_an_export_says_the_same_in_plain_transformers_and_read_again(make, name, tmp_path):
    policy, batch = make(name, True).eval(), two_scenes()
    policy.save_pretrained(tmp_path)
    again = HFPolicy(str(tmp_path), policy.sampling, lora=None).eval()
    rollouts = random_rollouts(policy)
    ours = policy.logprobs(policy.encode(batch, QUESTIONS), rollouts).detach()
    read = again.logprobs(again.encode(batch, QUESTIONS), rollouts).detach()
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    theirs = separate_logps(again, plain, batch, rollouts).detach()
    torch.testing.assert_close(read, ours, rtol=0, atol=1e-4)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)
    assert AutoProcessor.from_pretrained(tmp_path).chat_template == policy.processor.chat_template


@families
def test_prompt_ids_are_those_of_the_processor(make, name):
    policy, batch = make(name), two_scenes()
    prefix = policy.encode(batch, QUESTIONS)
    for scene, (question, frames) in enumerate(zip(QUESTIONS, batch.frames, strict=True)):
        expected = plain_inputs(policy, batch, scene)["input_ids"][0]
        assert torch.equal(policy.prompt_ids(question, frames)[0], expected)
        assert prefix.lengths[scene] == len(expected)


@families
def test_visual_tokens_are_kept_whole(make, name, tmp_path, monkeypatch):
    """From memory and from files, what is added behind the first layers included; the encoder is not asked again."""
    cache, batch = VisionCache(folder=str(tmp_path)), two_scenes()
    first = make(name, True, vision_cache=cache)
    seen = first.encode(batch, QUESTIONS)
    again = make(name, True, vision_cache=VisionCache(memory_mb=0, folder=str(tmp_path)))
    for policy in (first, again):
        monkeypatch.setattr(
            type(policy.prompt_ids.frame_encoder),
            "encode_batch_invariant",
            lambda self, vlm, scenes: [None] * len(scenes),
        )
        found = policy.encode(batch, QUESTIONS)
        for one, other in zip(found.prompt_cache.keys, seen.prompt_cache.keys, strict=True):
            assert torch.equal(one, other)
