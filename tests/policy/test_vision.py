"""Visual tokens: the tower's own, each scene once, and kept within bounds."""

import pytest
import torch

from lvad.policy.feature_store import FeatureStore, VisionCache
from lvad.policy.hf import HFPolicy, Lora
from lvad.policy.tokens import PromptIds, chat_inputs

BYTES_PER_MB = 2**20


@pytest.fixture
def make(vlm_folder):
    def make(frozen=True, **cache):
        torch.manual_seed(0)
        lora = Lora(rank=2) if frozen else None
        policy = HFPolicy(str(vlm_folder), lora=lora, freeze_vision=frozen, vision_cache=VisionCache(**cache))
        tiles = []
        policy.vlm.model.vision_model.register_forward_pre_hook(
            lambda _, __, kwargs: tiles.append(len(kwargs["pixel_values"])), with_kwargs=True
        )
        return policy, tiles

    return make


def test_the_tokens_are_those_of_the_model_for_mixed_numbers_of_frames(make, make_batch):
    policy, tiles = make()
    batch = make_batch(2, 5, 2, 1)
    with torch.no_grad():
        features = policy._eyes.look(policy.vlm, batch.frames)
    assert sum(tiles) == 10  # nothing is padded
    for frames, seen in zip(batch.frames, features, strict=True):
        inputs = chat_inputs(policy.processor, batch._replace(frames=[frames]), ["?"])
        with torch.no_grad():
            own = policy.vlm.model.get_image_features(inputs["pixel_values"], inputs.get("pixel_attention_mask"))
        torch.testing.assert_close(seen, torch.cat(list(own.pooler_output)), rtol=1e-4, atol=1e-5)


def test_a_frozen_tower_sees_each_scene_once_whatever_the_prompt_and_the_company(make, make_batch):
    policy, tiles = make()
    batch = make_batch(1, 2, 1)
    first = policy.encode(batch).embeds
    assert sum(tiles) == 4
    torch.testing.assert_close(policy.encode(batch).embeds, first, rtol=0, atol=0)
    policy.encode(batch._replace(frames=batch.frames[::-1]), ["Why?"] * 3)
    assert sum(tiles) == 4
    policy.encode(make_batch(1, seed=1))
    assert sum(tiles) == 5


@pytest.mark.parametrize("cache", [{"memory_mb": 0}, {}])
def test_a_trained_tower_and_a_cache_of_no_size_keep_nothing(make, make_batch, cache):
    policy, tiles = make(frozen=bool(cache), **cache)
    for _ in range(2):
        policy.encode(make_batch(1))
    assert sum(tiles) == 2


def test_new_weights_are_seen(make, make_batch):
    """What was kept under other weights must not come back: neither after a change in place nor in another type."""
    policy, tiles = make()
    batch = make_batch(1)
    before = policy.encode(batch).embeds
    with torch.no_grad():
        next(policy.vlm.model.connector.parameters()).mul_(2)
    after = policy.encode(batch).embeds
    assert (before - after).abs().max() > 1e-4
    policy.double()
    assert policy.encode(batch).embeds.dtype == torch.float64
    assert sum(tiles) == 3


def test_files_serve_another_process_with_the_same_tower_and_no_other(make, make_batch, tmp_path):
    batch, cache = make_batch(1, 2), {"memory_mb": 0, "folder": str(tmp_path / "seen")}
    policy, _ = make(**cache)
    expected = policy.encode(batch).embeds
    again, tiles = make(**cache)
    torch.testing.assert_close(again.encode(batch).embeds, expected, rtol=0, atol=0)
    assert tiles == []
    with torch.no_grad():
        next(again.vlm.model.vision_model.parameters()).mul_(2)
    again.encode(batch)
    assert sum(tiles) == 3
    assert not [p for p in (tmp_path / "seen").rglob("*") if p.is_file() and p.suffix != ".safetensors"]


def test_a_damaged_file_is_named(make, make_batch, tmp_path):
    policy, _ = make(folder=str(tmp_path))
    policy.encode(make_batch(1))
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    again, _ = make(folder=str(tmp_path))
    with pytest.raises(ValueError, match=rf"{file.name} holds no visual tokens .*delete it"):
        again.encode(make_batch(1))


def test_memory_is_bounded_and_the_least_recently_used_leave_first():
    store = FeatureStore(VisionCache(memory_mb=1))
    size = BYTES_PER_MB // 4 // 4
    for name in "abcd":
        store.put(name, torch.zeros(size, 1))
    assert store.get("a") is not None
    store.put("e", torch.zeros(size, 1))
    assert store.get("b") is None
    assert all(store.get(name) is not None for name in "acde")
    assert store.num_bytes == BYTES_PER_MB
    store.put("huge", torch.zeros(5 * size, 1))
    assert store.get("huge") is None
    assert store.num_bytes == BYTES_PER_MB
    store.put("a", torch.zeros(size, 1))  # again
    assert all(store.get(name) is not None for name in "acde")
    with pytest.raises(ValueError, match="memory_mb"):
        VisionCache(memory_mb=-1)


def test_prompt_ids_are_those_of_the_processor(make, make_batch):
    policy, _ = make()
    batch, ids = make_batch(1, 3), PromptIds(policy.processor)
    queries = ["What do you see?", "Stop\nor go: why?"]
    inputs = chat_inputs(policy.processor, batch, queries)
    for b, (query, frames) in enumerate(zip(queries, batch.frames, strict=True)):
        expected = inputs["input_ids"][b][inputs["attention_mask"][b].bool()]
        assert ids(query, frames).tolist() == expected.tolist()
    with pytest.raises(ValueError, match="must not contain '<image>'"):
        ids("What is <image>?", batch.frames[0])


def test_frames_of_the_wrong_number_of_tokens_name_their_scene(make, make_batch):
    policy, _ = make()
    policy.processor.image_seq_len = 3
    with pytest.raises(ValueError, match="scene-0: 16 visual tokens for 3 places"):
        policy.encode(make_batch(1))
