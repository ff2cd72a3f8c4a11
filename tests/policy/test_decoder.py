"""One token at a time against the model's own forward over whole sequences."""

from functools import partial

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from lvad.policy.adapters import Lora, adapted
from lvad.policy.attention import attend
from lvad.policy.autograd_functions import patch_norms
from lvad.policy.decoder import TokenPass, fused_linear

SIZES = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "vocab_size": 11, "head_dim": 8}


def make(**options):
    torch.manual_seed(0)
    config = LlamaConfig(**{**SIZES, "num_attention_heads": 6, "num_key_value_heads": 2, **options})
    model = LlamaModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)  # norms and biases that are not the neutral ones
    return model


class Causal:
    """Attention over all that came before, kept the plain way."""

    def __init__(self):
        self.kept = {}

    def __call__(self, layer, q, k, v, scale):
        self.kept.setdefault(layer, []).append((k, v))
        keys, values = (torch.stack(kept, 1) for kept in zip(*self.kept[layer], strict=True))
        return attend(q.unsqueeze(1), keys, values, scale, causal=False).out.squeeze(1)


def states(model, embeds):
    """float[R, T, E] token by token."""
    one, past = TokenPass(model, partial(fused_linear, num_rows=len(embeds))), Causal()
    positions = torch.arange(embeds.shape[1])
    return torch.stack([one(embeds[:, t], positions[t].expand(len(embeds)), past) for t in positions], 1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention_bias": True, "mlp_bias": True},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0}},
        {"hidden_size": 768, "intermediate_size": 512},  # layers large enough to be laid out anew
    ],
    ids=str,
)
def test_states_are_those_of_the_model(options):
    model = make(**options)
    embeds = torch.randn(3, 5, model.config.hidden_size)
    with torch.no_grad():
        expected = model(inputs_embeds=embeds).last_hidden_state
    torch.testing.assert_close(states(model, embeds), expected, rtol=1e-4, atol=1e-4)


def test_in_float64_they_are_equal():
    model = make().double()
    patch_norms(model)  # transformers normalises in float32 whatever it is given
    embeds = torch.randn(2, 4, 48, dtype=torch.float64)
    with torch.no_grad():
        expected = model(inputs_embeds=embeds).last_hidden_state
    torch.testing.assert_close(states(model, embeds), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("half", ["weights", "autocast"])
def test_in_half_precision(half):
    model = make()
    embeds = torch.randn(3, 5, 48)
    with torch.no_grad():
        exact = model(inputs_embeds=embeds).last_hidden_state
        if half == "weights":
            model, embeds = model.bfloat16(), embeds.bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=half == "autocast"):
            expected, found = model(inputs_embeds=embeds).last_hidden_state, states(model, embeds)
    assert found.dtype == expected.dtype
    # Two roundings of the same number: as far from it as each other.
    assert (found - exact).norm() <= 1.5 * (expected - exact).norm()


def test_adapters_are_read():
    model = adapted(make(), Lora(rank=2, targets=r".*_proj"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    embeds = torch.randn(3, 5, 48)
    with torch.no_grad():
        trained = model(inputs_embeds=embeds).last_hidden_state
        found = states(model.get_base_model(), embeds)
        torch.testing.assert_close(found, trained, rtol=1e-4, atol=1e-4)
        with model.disable_adapter():
            start, found = model(inputs_embeds=embeds).last_hidden_state, states(model.get_base_model(), embeds)
    torch.testing.assert_close(found, start, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(start, trained, atol=1e-2)
