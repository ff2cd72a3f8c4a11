"""The published shapes of larger models, without their weights: transformers' classes on the meta device."""

import re

import pytest
import torch
import transformers as t

from lvad.policy import Lora
from lvad.policy.adapters import adapted
from lvad.policy.families import FAMILIES

QWEN3_VL_2B = t.Qwen3VLConfig(
    text_config={
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20],
                            "mrope_interleaved": True},
    },
    vision_config={
        "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2048,
        "patch_size": 16, "num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17],
    },
    tie_word_embeddings=True,
)  # fmt: skip
QWEN2_5_VL_3B = t.Qwen2_5_VLConfig(
    text_config={
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    vision_config={
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048,
        "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
    },
    tie_word_embeddings=True,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "billions", "num_layers"),
    [(QWEN3_VL_2B, 2.127532032, 28), (QWEN2_5_VL_3B, 3.754622976, 36)],
    ids=["qwen3-vl-2b", "qwen2.5-vl-3b"],
)
def test_parameters_and_adapters(config, billions, num_layers):
    """The number of parameters that the published checkpoints have, and adapters on the text model alone."""
    with torch.device("meta"):
        vlm = t.AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
        assert sum(p.numel() for p in vlm.parameters()) == round(billions * 1e9)
        assert not set(FAMILIES[config.model_type].vision) - {name for name, _ in vlm.model.named_children()}
        policy = adapted(vlm, Lora())
    names = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 7 * num_layers
    assert all(re.match(r".*\.language_model\.layers\.\d+\.", name) for name in names)
    # An adapter of rank 16 on an E x F layer has 16 (E + F) parameters; q, k, v, o, gate, up, down.
    text = config.text_config
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    q, k, e, f = (
        text.num_attention_heads * size,
        text.num_key_value_heads * size,
        text.hidden_size,
        text.intermediate_size,
    )
    of_layer = 16 * (2 * (e + q) + 2 * (e + k) + 3 * (e + f))
    assert sum(p.numel() for p in policy.parameters() if p.requires_grad) == num_layers * of_layer
