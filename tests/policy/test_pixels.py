"""Tiles and pixel values: those of transformers' processors, and settings that are refused by name."""

import json
from importlib.metadata import version
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoImageProcessor, Idefics3ImageProcessor, SmolVLMImageProcessor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from lvad.policy.pixels import ImageOptions, Tiling

PIL_PROCESSORS = (Idefics3ImageProcessorPil, SmolVLMImageProcessorPil)
LEVEL = 2 / 255  # of the pixel values, whose std is 0.5
SIDES = st.integers(3, 130)


def frames_of(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def processed(processor, frames):
    given = processor([list(frames)], return_tensors="pt", return_row_col_info=True, input_data_format="channels_first")
    assert given["pixel_attention_mask"].all()
    return given["pixel_values"][0], (given["rows"][0][0], given["cols"][0][0])


def tiled(tiling, frames):
    return tiling.pixel_values(tiling.tiles(frames).flatten(0, 1))


def begins_with_columns(height, width, tiling):
    """Whether Pillow from 13 on does so in one of the steps: its pixels differ there from those of earlier versions."""
    is_new = int(PIL.__version__.split(".")[0]) >= 13
    sizes = [(height, width), *tiling._sizes(height, width), (tiling.tile_px, tiling.tile_px)]
    steps = pairwise(sizes)
    return is_new and any(old[0] > new[0] and old[0] - new[0] > 2 * (old[1] - new[1]) for old, new in steps)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(PIL_PROCESSORS), SIDES, SIDES, st.sampled_from([16, 28]), st.integers(1, 4),
    st.sampled_from([0, 5]), st.booleans(), st.booleans(), st.sampled_from([1, 2, 3]),
)  # fmt: skip
def test_pixel_values_are_those_of_pils_processor(kind, height, width, px, side, more, is_split, is_resized, resample):
    processor = kind(
        size={"longest_edge": side * px + more}, max_image_size={"longest_edge": px}, do_image_splitting=is_split,
        do_resize=is_resized, resample=resample,
    )  # fmt: skip
    tiling, frames = Tiling.of(processor), frames_of(2, 3, height, width)
    expected, grid = processed(processor, frames)
    found = tiled(tiling, frames)
    assert found.shape == expected.shape
    assert tiling.grid(height, width) == grid
    assert len(found) == 2 * tiling.num_tiles(height, width)
    if not begins_with_columns(height, width, tiling):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.skipif(
    tuple(map(int, version("torchvision").split(".")[:2])) < (0, 27), reason="has no Lanczos before torchvision 0.27"
)
@pytest.mark.parametrize("kind", [Idefics3ImageProcessor, SmolVLMImageProcessor])
@pytest.mark.parametrize(("height", "width"), [(72, 128), (128, 72), (90, 90), (33, 127)])
def test_torchvisions_variant_has_the_same_tiles(kind, height, width):
    """Its weights have 16 bits and not 22, so that single pixels are off by a level, and by two or three when resized
    again."""
    processor = kind(size={"longest_edge": 128}, max_image_size={"longest_edge": 32})
    tiling, frames = Tiling.of(processor), frames_of(1, 3, height, width)
    expected, grid = processed(processor, frames)
    found = tiled(tiling, frames)
    assert tiling.grid(height, width) == grid
    assert found.shape == expected.shape
    off = (found - expected).abs() / LEVEL
    assert off.max() < 4
    assert off.mean() < 0.1


@pytest.mark.parametrize("normal", [{}, {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}])
@pytest.mark.parametrize("steps", [{}, {"do_rescale": False}, {"do_normalize": False}, {"rescale_factor": 0.01}])
def test_values_are_rescaled_and_normalised_as_the_processor_does(normal, steps):
    processor = Idefics3ImageProcessorPil(
        size={"longest_edge": 16}, max_image_size={"longest_edge": 16}, **normal, **steps
    )
    frames = frames_of(1, 3, 16, 16)
    expected, _ = processed(processor, frames)
    torch.testing.assert_close(tiled(Tiling.of(processor), frames), expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("resample", 0, r"resample 0 is not known; set it to one of 1 \(lanczos\)"),
        ("size", {"height": 32, "width": 32}, "size must be .'longest_edge': pixels."),
        ("max_image_size", {"longest_edge": 0}, "max_image_size must be"),
        ("image_mean", [0.5], "image_mean must be three numbers"),
        ("image_std", [0.5, 0.0, 0.5], "image_std must be three numbers, a std"),
        ("resample", [2], r"resample \[2\] is not known; set it to one of 1 \(lanczos\)"),
        ("rescale_factor", 0.0, "rescale_factor above 0"),
        ("rescale_factor", [0.01], r"rescale_factor must be a number, got \[0.01\]"),
    ],
)
def test_settings_that_are_not_known_are_named(setting, value, message):
    processor: Any = Idefics3ImageProcessorPil()
    setattr(processor, setting, value)
    with pytest.raises(ValueError, match=message):
        Tiling.of(processor)


def test_another_familys_processor_is_named():
    with pytest.raises(ValueError, match="SimpleNamespace is not known; known: Idefics3ImageProcessor"):
        Tiling.of(SimpleNamespace())


class Counted(TorchDispatchMode):
    """Operators, each of which a device's host launches."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_few_operators_whatever_the_number_of_frames_and_none_waits(monkeypatch):
    """Under 1.4 ms of the host at 15 microseconds each; a released SmolVLM's three resizes take five passes."""
    monkeypatch.setattr("lvad.policy.resampling._CPU_VALUES_AT_ONCE", 2**27)  # a device's
    tiling = Tiling.of(Idefics3ImageProcessorPil(size={"longest_edge": 128}, max_image_size={"longest_edge": 32}))
    counts = []
    for number in (1, 1, 6):  # the first builds the matrices
        with Counted() as counted:
            tiled(tiling, frames_of(number, 3, 45, 80))
        counts.append(len(counted.names))
    assert counts[1] == counts[2] < 90
    assert not {"_local_scalar_dense", "nonzero", "is_nonzero"} & set(counted.names)


def test_a_released_processor_makes_13_tiles_of_a_camera_frame_and_settings_make_fewer():
    """1280x720: 2048x1152 in 4 x 3 tiles; 1536x864 in 3 x 2; 1024x576 in 2 x 2; each time with the whole frame."""
    released = {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}}
    tiling = Tiling.of(Idefics3ImageProcessor(**released))
    assert tiling.num_tiles(720, 1280) == tiling.num_tiles(36, 64) == 13
    assert tiling.fewer_tiles(720, 1280) == [
        "images.longest_edge_px 1536 (7 tiles a frame)", "images.splitting false (1 tile a frame)"
    ]  # fmt: skip
    processor = SimpleNamespace(
        image_processor=Idefics3ImageProcessor(**released),
        tokenizer=SimpleNamespace(get_vocab=lambda: {f"<row_{i}_col_{i}>": i for i in range(1, 7)}),
    )
    for images, tiles in [
        (ImageOptions(), 13), (ImageOptions(longest_edge_px=1536), 7), (ImageOptions(longest_edge_px=1024), 5),
        (ImageOptions(splitting=False), 1),
    ]:  # fmt: skip
        images.apply(processor)
        assert Tiling.of(processor.image_processor).num_tiles(720, 1280) == tiles
    assert Tiling.of(processor.image_processor).fewer_tiles(720, 1280) == []


def test_settings_of_images_are_saved_with_the_processor(tmp_path):
    processor = SimpleNamespace(image_processor=SmolVLMImageProcessor(), tokenizer=None)
    ImageOptions(splitting=False, longest_edge_px=728).apply(processor)
    processor.image_processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert (saved["do_image_splitting"], saved["size"]) == (False, {"longest_edge": 728})
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert Tiling.of(again) == Tiling.of(processor.image_processor)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"longest_edge_px": 700}, "must be a multiple of the processor's tile, 364, of at most 4096, got 700"),
        ({"longest_edge_px": 4368}, "of at most 4096, got 4368"),
        ({"longest_edge_px": 1092}, r"3 x 3 tiles, and the model has no token '<row_3_col_3>'; give a smaller"),
        ({"splitting": True}, "4 x 4 tiles"),
    ],
)
def test_images_that_the_model_cannot_be_shown_are_refused(images, message):
    tokenizer = SimpleNamespace(get_vocab=lambda: {"<row_2_col_2>": 0})
    processor = SimpleNamespace(image_processor=SmolVLMImageProcessor(), tokenizer=tokenizer)
    with pytest.raises(ValueError, match=message):
        ImageOptions(**images).apply(processor)


def test_a_longest_edge_of_no_pixels_is_refused():
    with pytest.raises(ValueError, match=r"images.longest_edge_px must be >= 1, got 0"):
        ImageOptions(longest_edge_px=0)
