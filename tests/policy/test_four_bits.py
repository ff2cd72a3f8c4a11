"""A base in 4 bits: the same exact engine on top of it, and a float32 copy that says the same."""

import pytest
import torch
from bitsandbytes.optim import AdamW8bit
from transformers import AutoModelForImageTextToText

from lvad.policy import HFPolicy, Lora, Sampling
from lvad.policy.adapters import merged, start_of
from lvad.policy.four_bits import dequantized, is_in_four_bits, multiply_in_float32


@pytest.fixture
def packed(vlm_folder):
    torch.manual_seed(0)
    policy = HFPolicy(str(vlm_folder), Sampling(max_new_tokens=8), lora=Lora(rank=4), in_four_bits=True)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return policy


def logits(model, policy):
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        return model(input_ids=ids.to(policy.vlm.device)).logits


def test_the_text_model_alone_is_packed(packed):
    weights = {name: p.dtype for name, p in packed.vlm.named_parameters() if p.dim() > 1 and "lora_" not in name}
    assert {name for name, dtype in weights.items() if dtype == torch.uint8} == {
        name for name in weights if "text_model" in name and "_proj." in name
    }
    assert is_in_four_bits(packed)
    with pytest.raises(ValueError, match="in_four_bits needs lora"):
        HFPolicy(packed.source, lora=None, in_four_bits=True)


@pytest.mark.parametrize("is_training", [True, False])
def test_the_completion_pass_has_the_distribution_of_the_sampler(packed, make_batch, is_training):
    packed.train(is_training)
    prefix = packed.encode(make_batch(2, 1))
    rollouts = packed.generate(prefix, 3)
    logps = packed.logprobs(prefix, rollouts)
    torch.testing.assert_close(logps, rollouts.logps, atol=1e-4, rtol=1e-4)


def test_a_step_with_adam_in_8_bits_trains_the_adapters_alone(packed, make_batch):
    before = {name: p.detach().clone() for name, p in packed.named_parameters()}
    optimizer = AdamW8bit([p for p in packed.parameters() if p.requires_grad], lr=0.01, min_8bit_size=1)
    prefix = packed.encode(make_batch(1))
    packed.logprobs(prefix, packed.generate(prefix, 2)).sum().backward()
    optimizer.step()
    moved = {name for name, p in packed.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_" in name}


def test_a_base_in_16_bits_is_unpacked_without_rounding_to_them(vlm_folder):
    torch.manual_seed(0)
    policy = HFPolicy(str(vlm_folder), lora=Lora(rank=4), in_four_bits=True, dtype="bfloat16").float().eval()
    multiply_in_float32(policy)
    copy = dequantized(policy.model)
    torch.testing.assert_close(logits(copy, policy), logits(policy.model, policy), atol=1e-4, rtol=1e-4)


def test_the_copy_in_float32_says_the_same_with_adapters_and_without(packed):
    logits(packed.eval().model, packed)  # evaluation leaves the weights as they were
    copy = dequantized(packed.model)
    assert not is_in_four_bits(copy)
    torch.testing.assert_close(logits(copy, packed), logits(packed.model, packed), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(merged(packed.model), packed), logits(packed.model, packed), atol=1e-4, rtol=1e-4)
    with packed.model.disable_adapter():
        start = logits(packed.model, packed)
    torch.testing.assert_close(logits(start_of(packed.model), packed), start, atol=1e-4, rtol=1e-4)
    # Packing did change the model, and the adapters do something: else the lines above would say little.
    whole = AutoModelForImageTextToText.from_pretrained(packed.source).eval()
    assert (logits(whole, packed) - start).abs().max() > 0.01
    assert (logits(copy, packed) - start).abs().max() > 0.01
