"""What is written is what plain transformers and peft read."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from lvad.policy import HFPolicy, Lora
from lvad.policy.tokens import chat_inputs


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
