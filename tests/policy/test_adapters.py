"""What is written is what plain transformers and peft read; the reference is the start, wherever the adapters lie."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from lvad.policy import HFPolicy, Lora, Sampling
from lvad.policy.adapters import active_weights
from lvad.policy.tokens import chat_inputs
from lvad.policy.vision import VisionCache

VISION_MODEL = r".*vision_model.*(q|k|v|out)_proj"
CONNECTOR = r".*connector.*proj"
BOTH = r".*(q|k|v|o|out|gate|up|down)_proj"


def logits(model, policy, batch):
    inputs = chat_inputs(policy.processor, batch, [policy.prompts.decide] * len(batch.ids))
    with torch.no_grad():
        return model(**inputs).logits


def test_start_and_adapter_are_read_by_transformers_and_peft(make_policy, make_batch, vlm_folder, tmp_path):
    policy, batch = make_policy(spread=False), make_batch(1, 1)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    trained = logits(policy.vlm, policy, batch)
    policy.save_on_start(tmp_path / "model", "answer")

    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "model").eval()
    before = AutoModelForImageTextToText.from_pretrained(vlm_folder).eval()
    start = logits(plain, policy, batch)
    torch.testing.assert_close(start, logits(before, policy, batch), rtol=0, atol=1e-5)
    assert not torch.allclose(start, trained, atol=1e-2)
    both = PeftModel.from_pretrained(plain, str(tmp_path / "model" / "answer")).eval()
    torch.testing.assert_close(logits(both, policy, batch), trained, rtol=0, atol=1e-5)
    with both.disable_adapter():
        torch.testing.assert_close(logits(both, policy, batch), start, rtol=0, atol=1e-5)


def test_without_adapters_both_are_whole_models(make_policy, make_batch, tmp_path):
    policy, batch = make_policy(lora=False, spread=False), make_batch(1)
    start = logits(policy.vlm, policy, batch)
    policy.keep_reference()
    with torch.no_grad():
        for parameter in policy.vlm.lm_head.parameters():
            parameter.mul_(1.5)
    policy.save_on_start(tmp_path / "model", "answer")
    for folder, expected in (("model", start), ("model/answer", logits(policy.vlm, policy, batch))):
        found = HFPolicy(str(tmp_path / folder), lora=None).eval()
        torch.testing.assert_close(logits(found.vlm, policy, batch), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("part", "name"), [("embed_tokens", "embedding"), ("lm_head", "head")])
def test_adapters_on_embedding_and_head_are_refused(vlm_folder, part, name):
    with pytest.raises(ValueError, match=rf"lora.targets '.*{part}' matches the {name}"):
        HFPolicy(str(vlm_folder), lora=Lora(targets=f".*{part}"))


def bend(policy, std=0.3):
    """Move the adapters away from doing nothing."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, std)


@pytest.fixture
def make(vlm_folder):
    def make(targets, **options):
        torch.manual_seed(0)
        lora = Lora(rank=4, targets=targets) if targets else None
        return HFPolicy(str(vlm_folder), Sampling(max_new_tokens=6), lora=lora, **options).eval()

    return make


@pytest.mark.parametrize("targets", [VISION_MODEL, CONNECTOR, BOTH])
@pytest.mark.parametrize("mode", ["under gradients", "without"])
def test_the_reference_is_the_start_wherever_the_adapters_lie(make, make_batch, targets, mode):
    policy, start, batch = make(targets), make(None), make_batch(1, 2)
    for std in (0.3, 0.5):  # a second update: nothing of the first may be left
        bend(policy, std)
        with torch.set_grad_enabled(mode == "under gradients"):
            prefix = policy.encode(batch)
            rollouts = policy.generate(prefix, 3)
        with torch.no_grad():
            expected = start.logprobs(start.encode(batch), rollouts)
        found = policy.reference_logprobs(batch, prefix, rollouts)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert (policy.logprobs(prefix, rollouts) - found).abs().max() > 1e-3
        assert all(p.requires_grad for name, p in policy.named_parameters() if "lora_" in name)


def test_a_refreshed_reference_sees_with_the_adapters_that_it_had(make, make_batch):
    policy, batch = make(BOTH), make_batch(1)
    bend(policy)
    prefix = policy.encode(batch)
    rollouts = policy.generate(prefix, 3)
    at_refresh = policy.logprobs(prefix, rollouts).detach()
    policy.reference_logprobs(batch, prefix, rollouts)  # the start's visual tokens are kept from here on
    policy.refresh_reference()
    bend(policy, 0.5)
    found = policy.reference_logprobs(batch, policy.encode(batch), rollouts)
    torch.testing.assert_close(found, at_refresh, rtol=0, atol=1e-5)


def test_visual_tokens_kept_with_adapters_off_are_not_taken_with_adapters_on(make, make_batch):
    """A trained policy that is frozen, as for an evaluation, keeps both kinds."""
    policy, batch = make(BOTH, vision_cache=VisionCache()), make_batch(1)
    bend(policy)
    policy.requires_grad_(False)
    with torch.no_grad():
        for _ in range(2):
            on = policy.encode(batch).embeds
            with policy.model.disable_adapter():
                off = policy.encode(batch).embeds
            policy.requires_grad_(False)
            torch.testing.assert_close(off, make(None).encode(batch).embeds, rtol=0, atol=1e-6)
            assert (on - off).abs().max() > 1e-3


def test_the_start_sees_each_scene_once(make, make_batch):
    policy, batch, seen = make(VISION_MODEL), make_batch(1), []
    prefix = policy.encode(batch)
    rollouts = policy.generate(prefix, 2)
    policy.vlm.model.vision_model.register_forward_hook(lambda *_: seen.append(1))
    for std in (0.1, 0.2):
        bend(policy, std)
        policy.reference_logprobs(batch, prefix, rollouts)
    assert len(seen) == 1


def test_weights_of_adapters_that_are_off_are_not_active(make):
    policy, plain = make(VISION_MODEL), make(None)
    encoder = policy.vlm.model.vision_model
    num_base, num_all = (len(list(p.vlm.model.vision_model.parameters())) for p in (plain, policy))
    assert len(active_weights(encoder)) == num_all > num_base
    with policy.model.disable_adapter():
        assert len(active_weights(encoder)) == num_base
