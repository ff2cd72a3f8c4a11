"""Visual tokens: the vision encoder's own, each scene once, whatever its company."""

import pytest
import torch
import transformers
from packaging.version import Version
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoProcessor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from lvad.policy.families import idefics3
from lvad.policy.families.idefics3 import TiledFrameEncoder
from lvad.policy.hf import HFPolicy, Lora
from lvad.policy.tokens import PromptIds, chat_inputs
from lvad.policy.vision import VisionCache


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
        features = policy._vision_encoder.encode_images(policy.vlm, batch.frames)
    assert sum(tiles) == 10  # nothing is padded
    for frames, seen in zip(batch.frames, features, strict=True):
        inputs = chat_inputs(policy.processor, batch._replace(frames=[frames]), ["?"])
        with torch.no_grad():
            own = policy.vlm.model.get_image_features(inputs["pixel_values"], inputs.get("pixel_attention_mask"))
        torch.testing.assert_close(seen, torch.cat(list(own.pooler_output)), rtol=1e-4, atol=1e-5)


def test_a_frozen_vision_encoder_sees_each_scene_once_whatever_the_prompt_and_the_company(make, make_batch):
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
def test_a_trained_vision_encoder_and_a_cache_of_no_size_keep_nothing(make, make_batch, cache):
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


def test_files_serve_another_process_with_the_same_vision_encoder_and_no_other(make, make_batch, tmp_path):
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


def test_prompt_ids_are_those_of_the_processor(make, make_batch):
    policy, _ = make()
    batch, ids = make_batch(1, 3), PromptIds(policy.processor, TiledFrameEncoder(policy.processor))
    questions = ["What do you see?", "Stop\nor go: why?"]
    inputs = chat_inputs(policy.processor, batch, questions)
    for b, (question, frames) in enumerate(zip(questions, batch.frames, strict=True)):
        expected = inputs["input_ids"][b][inputs["attention_mask"][b].bool()]
        assert ids(question, frames)[0].tolist() == expected.tolist()
    with pytest.raises(ValueError, match="must not contain '<image>'"):
        ids("What is <image>?", batch.frames[0])


def test_frames_of_the_wrong_number_of_tokens_name_their_scene(make, make_batch):
    policy, _ = make()
    policy.processor.image_seq_len = 3
    with pytest.raises(ValueError, match="scene-0: 16 visual tokens for 3 places"):
        policy.encode(make_batch(1))


@pytest.mark.parametrize("is_pil", [False, True])
def test_a_frame_of_any_size_has_as_many_places_as_its_tiles_have_tokens(vlm_folder, is_pil):
    processor = AutoProcessor.from_pretrained(vlm_folder)
    settings = {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}}
    processor.image_processor = type(processor.image_processor)(**settings)
    if is_pil:
        processor.image_processor = Idefics3ImageProcessorPil(**settings)
    grids = set()
    for height, width in [(9, 9), (33, 32), (20, 60), (60, 20), (30, 61), (60, 30), (54, 96), (7, 300)]:
        ids = PromptIds(processor, TiledFrameEncoder(processor))  # each size by itself, none by the grid of another
        frames = torch.zeros(2, 3, height, width, dtype=torch.uint8)
        places = (ids("Why?", frames)[0] == processor.image_token_id).sum()
        assert places == 2 * ids.frame_encoder.tiling.num_tiles(height, width) * processor.image_seq_len
        assert len(ids("Why?", frames)[0]) - len(ids("Why?", frames[:1])[0]) == ids.num_frame_tokens(height, width)
        grids.add(ids.frame_encoder.tiling.grid(height, width))
    assert grids == {(3, 3), (1, 3), (3, 1), (2, 3), (3, 2)}


@pytest.fixture
def on_a_device(monkeypatch):
    """The way through an accelerator, on the CPU."""
    monkeypatch.setattr(idefics3, "_is_cpu", lambda vlm: False)


def test_on_a_device_kept_tokens_come_of_calls_of_one_shape_and_do_not_depend_on_their_company(
    make, make_batch, on_a_device
):
    batch = make_batch(3, 1, 2, 14, 14)
    policy, tiles = make()
    together = policy._vision_encoder.encode_images(policy.vlm, batch.frames)
    assert tiles == [32, 32]  # 34 tiles
    for order in ([0], [4, 2], [1, 3, 0], [3, 4, 2, 1, 0]):
        again, _ = make()
        for index, seen in zip(
            order, again._vision_encoder.encode_images(again.vlm, [batch.frames[i] for i in order]), strict=True
        ):
            assert torch.equal(seen, together[index])
    on_the_cpu = batch.frames[0]
    output = policy.vlm.model.get_image_features(
        policy.prompt_ids.frame_encoder.tiling.pixel_values(on_the_cpu)[None]
    ).pooler_output
    features = output[0] if isinstance(output, list | tuple) else output  # by the version of transformers
    expected = features.reshape(-1, features.shape[-1])
    torch.testing.assert_close(together[0], expected, rtol=1e-4, atol=1e-5)


def test_on_a_device_all_scenes_share_the_vision_encoder_and_calls_are_halved_until_they_fit(
    make, make_batch, on_a_device
):
    policy, tiles = make(memory_mb=0)
    batch = make_batch(*[10] * 7)
    with torch.no_grad():
        expected = policy._vision_encoder.encode_images(policy.vlm, batch.frames)
        assert tiles == [64, 6]

        def refuse(_, __, kwargs):
            if len(kwargs["pixel_values"]) > 16:
                raise torch.OutOfMemoryError("no room")

        policy.vlm.model.vision_model.register_forward_pre_hook(refuse, with_kwargs=True)
        tiles.clear()
        seen = policy._vision_encoder.encode_images(policy.vlm, batch.frames)
        assert tiles == [64, 32, 16, 16, 16, 16, 6]
        tiles.clear()
        policy._vision_encoder.encode_images(policy.vlm, batch.frames)
        assert max(tiles) == 16  # it is remembered
    for one, other in zip(seen, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_on_a_device_what_does_not_fit_with_a_gradient_is_an_error(make, make_batch, on_a_device):
    policy, _ = make(frozen=False)

    def refuse(*_):
        raise torch.OutOfMemoryError("no room")

    policy.vlm.model.vision_model.register_forward_pre_hook(refuse)
    with pytest.raises(torch.OutOfMemoryError):
        policy._vision_encoder.encode_images(policy.vlm, make_batch(1).frames)


class Reads(TorchDispatchMode):
    """Values that the host waits for."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        is_mask = name == "index" and any(index is not None and index.dtype == torch.bool for index in args[1])
        if is_mask or name in ("_local_scalar_dense", "nonzero", "is_nonzero"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"),
    reason="an older vision encoder indexes its positions by a mask",
)
@pytest.mark.parametrize("cache", [{"memory_mb": 0}, {}])
def test_the_vision_encoder_waits_for_no_value(make, make_batch, on_a_device, cache):
    """Transformers' own way reads three a call: which tiles are zeros, how many, and whether all are seen whole."""
    policy, _ = make(**cache)
    policy._vision_encoder.encode_images(policy.vlm, make_batch(1, seed=1).frames)  # constants and the encoder's digest
    with Reads() as reads, torch.no_grad():
        policy._vision_encoder.encode_images(policy.vlm, make_batch(1, 2).frames)
    assert reads.names == []


def test_each_precision_keeps_its_own_tokens_in_its_own_type(make, make_batch, tmp_path):
    batch, seen = make_batch(1), {}
    for dtype in (torch.bfloat16, torch.float16):
        policy, tiles = make(folder=str(tmp_path))
        with torch.autocast("cpu", dtype=dtype):
            (seen[dtype],) = policy._vision_encoder.encode_images(policy.vlm, batch.frames)
        assert sum(tiles) == 1
        assert seen[dtype].dtype == dtype
    assert not torch.equal(seen[torch.bfloat16].float(), seen[torch.float16].float())
    again, tiles = make(folder=str(tmp_path))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(again._vision_encoder.encode_images(again.vlm, batch.frames)[0], seen[torch.bfloat16])
    assert tiles == []


def test_a_cache_of_less_than_nothing_is_refused():
    with pytest.raises(ValueError, match="memory_mb"):
        VisionCache(memory_mb=-1)


def test_whether_anything_is_kept(tmp_path):
    assert VisionCache().keeps
    assert VisionCache(0, str(tmp_path)).keeps
    assert not VisionCache(0).keeps
