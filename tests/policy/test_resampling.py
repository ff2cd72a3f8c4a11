"""Resizing: Pillow's pixels to the last bit, whatever the sizes, the filter and the precision of products."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lvad.policy import resampling
from lvad.policy.resampling import KERNELS, resize

SIDES = st.integers(1, 150)


def noise(height, width, seed=0):
    """Black and white pixels among others: weights below zero overshoot, and are clipped."""
    generator = np.random.default_rng(seed)
    picture = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.where(generator.random((height, width, 1)) < 0.5, picture // 255 * 255, picture).astype(np.uint8)


def resized_by_pillow(picture, height, width, resample):
    """Rows first, as Pillow did by itself before version 13."""
    rows = Image.fromarray(picture).resize((width, picture.shape[0]), resample)
    return torch.from_numpy(np.array(rows.resize((width, height), resample))).permute(2, 0, 1)


def check(picture, height, width, resample):
    frames = torch.from_numpy(picture).permute(2, 0, 1)[None]
    expected = resized_by_pillow(picture, height, width, resample)
    assert torch.equal(resize(frames, height, width, resample)[0], expected)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(sorted(KERNELS)))
def test_pixels_are_pillows(height, width, new_height, new_width, resample):
    check(noise(height, width), new_height, new_width, resample)


@pytest.mark.parametrize(
    ("size", "new_size"),
    [((72, 128), (115, 205)), ((72, 128), (205, 205)), ((1, 1), (5, 7)), ((9, 1500), (9, 2)), ((700, 3), (1, 1))],
)
@pytest.mark.parametrize("resample", KERNELS)
def test_pixels_are_pillows_at_the_edges(size, new_size, resample):
    """The last two add up more than the 512 pixels that one product may."""
    check(noise(*size), *new_size, resample)


def test_every_frame_and_part_is_resized_by_itself(monkeypatch):
    pictures = [noise(40, 60, seed) for seed in range(3)]
    monkeypatch.setattr(resampling, "_CPU_VALUES_AT_ONCE", 1000)  # a few columns at once
    found = resize(torch.stack([torch.from_numpy(p).permute(2, 0, 1) for p in pictures]), 33, 91, 1)
    for picture, frame in zip(pictures, found, strict=True):
        assert torch.equal(frame, resized_by_pillow(picture, 33, 91, 1))


def test_neither_autocast_nor_reduced_products_change_a_bit():
    """Digits and pixels are numbers of bfloat16; with the whole weights a product in TF32 is off by a thousandth."""
    frames = torch.from_numpy(noise(90, 160)).permute(2, 0, 1)[None]
    expected = resize(frames, 120, 200, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resize(frames, 120, 200, 1), expected)
    bands = resampling._bands(160, 200, 1, torch.device("cpu"))
    assert torch.equal(bands.digits.bfloat16().float(), bands.digits)
    assert torch.equal(frames.bfloat16().byte(), frames)
    most = (bands.digits.abs().double().sum(-1) * 255).max()
    assert most < 2**24


def test_a_frame_of_the_right_size_is_left_alone():
    frames = torch.from_numpy(noise(8, 9)).permute(2, 0, 1)[None]
    assert torch.equal(resize(frames, 8, 9, 1), frames)


def test_upscaling_by_two_has_the_weights_worked_by_hand():
    """Bilinear, from (0, 100): the outputs lie at -1/4, 1/4, 3/4, 5/4 of the inputs' distance."""
    frames = torch.tensor([0, 100], dtype=torch.uint8).view(1, 1, 1, 2)
    assert resize(frames, 1, 4, 2).flatten().tolist() == [0, 25, 75, 100]
