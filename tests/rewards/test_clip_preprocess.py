"""Frames at a model's size, against open_clip's own transform of one PIL image."""

import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from lvad.rewards.clip import preprocess

UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def smooth(height, width):
    generator = torch.Generator().manual_seed(0)
    coarse = 255 * torch.rand(1, 3, 6, 6, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").to(torch.uint8)


@pytest.mark.parametrize("resize_mode", ["longest", "squash", "shortest"])
@pytest.mark.parametrize("size", [64, (64, 64), (48, 80), (80, 48)])
@pytest.mark.parametrize(("height", "width"), [(90, 161), (161, 90), (64, 64), (30, 41)])
@pytest.mark.parametrize(("interpolation", "fill_color"), [("bicubic", 0), ("bilinear", 200)])
def test_every_mode_and_size_is_that_of_open_clip(resize_mode, size, height, width, interpolation, fill_color):
    """Up to two levels of 255: two libraries resize, and round to bytes."""
    config = {
        "size": size, "resize_mode": resize_mode, "interpolation": interpolation, "fill_color": fill_color, **UNIT
    }  # fmt: skip
    frames = smooth(height, width)
    expected = image_transform_v2(PreprocessCfg(**config), is_train=False)(
        Image.fromarray(frames[0].permute(1, 2, 0).numpy())
    )
    actual = preprocess(frames, config)
    assert actual.shape == (1, *expected.shape)
    assert (actual[0] - expected).abs().max() <= 2.01 / 255


def test_longest_keeps_the_whole_frame_between_margins():
    """A white frame of 8 x 4 in a square of 4: two white rows between a black one above and one below."""
    config = {"size": 4, "resize_mode": "longest", "interpolation": "bicubic", **UNIT}
    found = preprocess(torch.full((2, 3, 4, 8), 255, dtype=torch.uint8), config)
    assert found.shape == (2, 3, 4, 4)
    assert found[0, 0].tolist() == [[0.0] * 4, [1.0] * 4, [1.0] * 4, [0.0] * 4]


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match="resize_mode must be squash, shortest or longest, got 'fit'"):
        preprocess(smooth(8, 8), {"size": 4, "resize_mode": "fit", "interpolation": "bicubic", **UNIT})
