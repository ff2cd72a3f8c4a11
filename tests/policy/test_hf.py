"""The policy against plain transformers, against enumeration, and against itself in other arrangements."""

import shutil

import pytest
import torch
from listing import only

from lvad.losses.policy_gradient import reinforce
from lvad.policy.tokens import chat_inputs, decode_completions
from lvad.types import Rollouts

LAWS = [{}, {"temperature": 1.5, "top_k": 50, "top_p": 0.95}, {"temperature": 0.7, "top_k": 5}]


def pick(rollouts, scenes):
    texts = [rollouts.texts[i] for i in scenes]
    return Rollouts(*(field[scenes] for field in rollouts[:-1]), texts)


def pick_batch(batch, scenes):
    parts = {
        name: field[scenes] if torch.is_tensor(field) else [field[i] for i in scenes]
        for name, field in batch._asdict().items()
        if name != "taxonomy"
    }
    return batch._replace(**parts)


@pytest.mark.parametrize("law", LAWS)
def test_completion_pass_gives_the_log_probabilities_of_the_sampler(make_policy, make_batch, law):
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
    inputs = chat_inputs(policy.processor, batch, [policy.prompts.describe])
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


def test_a_frozen_vision_encoder_gets_no_gradient_and_a_trained_one_does(make_policy, make_batch):
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


def test_the_vision_encoder_sees_every_tile_once_whatever_k_and_length(make_policy, make_batch):
    policy = make_policy(max_new_tokens=8)
    seen = []
    policy.vlm.model.vision_model.register_forward_hook(lambda _, __, output: seen.append(len(output[0])))
    prefix = policy.encode(make_batch(2, 2))
    pixels = policy.processor.image_processor([list(frames) for frames in make_batch(2, 2).frames])["pixel_values"]
    assert sum(seen) == len(pixels) * len(pixels[0])
    calls = len(seen)
    rollouts = policy.generate(prefix, 8)
    policy.logprobs(prefix, rollouts)
    policy.reference_logprobs(make_batch(2, 2), prefix, rollouts)
    assert len(seen) == calls


def test_targets_are_the_supervised_likelihood(make_policy, make_batch):
    policy = make_policy()
    targets = policy.targets([["a car", "a red car ahead"]])
    assert targets.tokens[0, 0][targets.completion_mask[0, 0]][-1] == policy.end_id
    texts = decode_completions(policy.processor.tokenizer, targets.tokens, targets.completion_mask)
    assert texts == [["a car", "a red car ahead"]]
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
    inputs = chat_inputs(policy.processor, batch, [policy.prompts.describe])
    new = model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"]).logits
    old = policy.vlm(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"]).logits
    torch.testing.assert_close(new, old, rtol=0, atol=1e-3)
    assert processor.tokenizer.eos_token_id == policy.end_id
    assert said.texts[0][0] == decode_completions(policy.processor.tokenizer, said.tokens, said.completion_mask)[0][0]


def test_an_unknown_folder_and_a_foreign_model_are_named(tmp_path):
    from transformers import LlamaConfig, SmolVLMConfig

    from lvad.policy.hf import HFPolicy

    with pytest.raises(FileNotFoundError, match="no model folder"):
        HFPolicy(str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match="no embedded model 'embedded/nothing'"):
        HFPolicy("embedded/nothing")
    LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="llama"):
        HFPolicy(str(tmp_path))
    SmolVLMConfig(text_config={"model_type": "mistral"}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="text model of type 'mistral'; known: llama, qwen2, "):
        HFPolicy(str(tmp_path))


@pytest.fixture
def splitting_folder(vlm_folder, tmp_path):
    """A model whose processor cuts a frame, scaled to 256 pixels, into tiles of 128."""
    from transformers import AutoProcessor

    folder = tmp_path / "splitting"
    shutil.copytree(vlm_folder, folder)
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor.do_image_splitting = True
    processor.image_processor.size = {"longest_edge": 256}
    processor.save_pretrained(folder)
    return folder


def test_settings_of_images_reach_prompt_pixels_cache_and_export(splitting_folder, make_batch, tmp_path):
    from transformers import AutoProcessor

    from lvad.policy import HFPolicy, ImageOptions, VisionCache

    batch, lengths, seen = make_batch(1), [], []
    cache = VisionCache(folder=str(tmp_path / "kept"))
    for images in (ImageOptions(), ImageOptions(longest_edge_px=128), ImageOptions(splitting=False)):
        torch.manual_seed(0)
        policy = HFPolicy(str(splitting_folder), lora=None, images=images, vision_cache=cache)
        prefix = policy.encode(batch)
        inputs = chat_inputs(policy.processor, batch, [policy.prompts.describe])
        assert prefix.lengths == (inputs["input_ids"].shape[1],)
        (tokens,) = policy._vision_encoder.encode_images(policy.vlm, batch.frames)
        assert len(tokens) == (inputs["input_ids"] == policy.vlm.config.image_token_id).sum()
        lengths.append(prefix.lengths[0])
        seen.append(tokens)
        policy.save_pretrained(tmp_path / "saved")
        saved = AutoProcessor.from_pretrained(tmp_path / "saved")
        again = chat_inputs(saved, batch, [policy.prompts.describe])
        assert torch.equal(again["pixel_values"], inputs["pixel_values"])
        assert torch.equal(again["input_ids"], inputs["input_ids"])
    assert lengths[0] > lengths[1] == lengths[2]
    assert [len(tokens) for tokens in seen] == [5 * 16, 16, 16]
    assert not torch.equal(seen[1], seen[2])  # the last was scaled to 256 and back


def test_images_that_the_model_has_no_tokens_for_are_refused_at_once(vlm_folder):
    from lvad.policy import HFPolicy, ImageOptions

    with pytest.raises(ValueError, match=r"2 x 2 tiles, and the model has no token '<row_2_col_2>'"):
        HFPolicy(str(vlm_folder), images=ImageOptions(splitting=True, longest_edge_px=256))
