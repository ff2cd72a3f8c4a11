"""What a policy refuses to load, and says so by name."""

import json
import shutil

import pytest
from tiny_families import make_family

from lvad.policy import HFPolicy
from lvad.policy.pixels import ImageOptions


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("internvl", {"layer_types": ["full_attention", "sliding_attention"] * 2, "sliding_window": 8,
                      "use_sliding_window": True}, "layers of sliding_attention; known: full_attention"),
        ("llava_onevision", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
         "dynamic rotary positions; known: default, linear, llama3, yarn"),
        ("qwen2_5_vl", {"attention_dropout": 0.1}, "attention dropout"),
        ("internvl", {"model_type": "qwen3_moe"}, "text model of type 'qwen3_moe'; known: llama, qwen2, qwen2_vl_text"),
    ],
)  # fmt: skip
def test_text_models_that_the_shared_passes_would_be_wrong_about(tmp_path, name, text, said):
    make_family(name, tmp_path, **text)
    with pytest.raises(ValueError, match=said):
        HFPolicy(str(tmp_path))


def test_a_mixture_of_experts_is_no_member_of_its_family(tmp_path, family_folder):
    config = json.loads((family_folder("qwen3_vl") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "qwen3_vl_moe"}))
    with pytest.raises(ValueError, match=r"'qwen3_vl_moe'; known: idefics3, smolvlm, llava_onevision, .*qwen3_vl$"):
        HFPolicy(str(tmp_path))


def test_a_frame_token_beyond_the_vocabulary_is_named(vlm_folder, tmp_path):
    config = tmp_path / "vlm/config.json"
    shutil.copytree(vlm_folder, config.parent)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"image_token_id": 99999}))
    with pytest.raises(ValueError, match="names 99999 as image_token_id, its vocabulary has the ids 0 to 319; correct"):
        HFPolicy(str(config.parent))


def tokens_of(folder, height, width, num_frames=1, **images):
    """Visual tokens of a frame in the prompt."""
    policy = HFPolicy(str(folder), lora=None, images=ImageOptions(**images))
    ids = policy.prompt_ids.frame_encoder.frame_tokens(num_frames, height, width).ids
    return ids.count(policy.vlm.config.image_token_id)


@pytest.mark.parametrize(
    ("name", "all_tokens", "budgets"),
    [
        # A token is 28 x 28 pixels: 84 x 140 are 3 x 5. At most 12: both edges over sqrt(15 / 12), rounded down.
        ("qwen2_5_vl", 15, {12: 8, 10: 8, 2: 1}),
        # 32 x 32 pixels: 84 / 32 and 140 / 32 are rounded to 3 and 4; at most 11, over sqrt(11.48 / 11) and down.
        ("qwen3_vl", 12, {11: 8}),
        # A tile is 4 tokens. The ratio 5 / 3 is nearest to 3 x 2 tiles among up to 6: with the whole frame 28 tokens.
        # Among up to 4 tiles it is nearest to 2 x 1, with the whole one 12; a budget of two tiles allows one.
        ("internvl", 28, {28: 28, 20: 12, 11: 4, 4: 4}),
        # A tile is 3 x 3 tokens. On 84 x 84 pixels the frame fills 3.6 of 6 rows, and one above and one below are left
        # out: 4 rows of 6, an end for each, and 9 of the whole frame. On 42 x 84 it fills 5 of 6 columns, and half a
        # column on each side is none to leave out: 3 rows of 6, 3 ends and 9.
        ("llava_onevision", 37, {57: 37, 50: 30}),
    ],
)  # fmt: skip
def test_a_budget_of_visual_tokens(family_folder, name, all_tokens, budgets):
    assert tokens_of(family_folder(name), 84, 140) == all_tokens
    for most, expected in budgets.items():
        assert tokens_of(family_folder(name), 84, 140, max_tokens=most) == expected <= most
