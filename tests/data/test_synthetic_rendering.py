import dataclasses
import random

import pytest
from drawn import AT_JUNCTION, EMPTY, FREE, SOLID
from PIL import ImageChops, ImageStat

from lvad.data.synthetic import draw_state, render_frame

LIGHT = (62, 2, 82, 50)
"""Where the traffic light's head is in 128 pixels, whatever the jitter."""


def mean_of(image, box=None):
    return ImageStat.Stat(image.crop(box) if box else image).mean


def difference(first, second):
    """Mean absolute difference per channel value."""
    return sum(mean_of(ImageChops.difference(first, second))) / 3


def test_frames_are_fixed_by_the_state():
    for i in range(20):
        state = draw_state(random.Random(i))
        image = render_frame(state, 1, 2)
        assert image.size == (128, 128)
        assert image.mode == "RGB"
        assert image.tobytes() == render_frame(state, 1, 2).tobytes()


@pytest.mark.parametrize("size_px", [32, 96, 224])
def test_any_size(size_px):
    assert render_frame(EMPTY, 0, 1, size_px).size == (size_px, size_px)


def test_frame_must_exist():
    with pytest.raises(ValueError, match="frame=2"):
        render_frame(EMPTY, 2, 2)


def test_light_changes_between_frames():
    state = dataclasses.replace(AT_JUNCTION, light="green", light_before="red")
    first, last = (mean_of(render_frame(state, frame, 2), LIGHT) for frame in (0, 1))
    assert first[0] > first[1] + 20
    assert last[1] > last[0] + 20
    # A single frame is the last one.
    assert mean_of(render_frame(state, 0, 1), LIGHT) == pytest.approx(last, abs=5)


def test_every_fact_that_matters_is_visible():
    scenes = [EMPTY, dataclasses.replace(EMPTY, left=FREE), dataclasses.replace(EMPTY, left=SOLID)]
    scenes += [dataclasses.replace(EMPTY, light=light, light_before=light) for light in ("red", "yellow", "green")]
    scenes += [dataclasses.replace(EMPTY, light=f"{side} arrow") for side in ("left", "right")]
    scenes += [dataclasses.replace(EMPTY, sign=sign) for sign in ("stop", "yield", "speed limit")]
    cars = [{"lead": "far"}, {"lead": "near"}, {"lead": "near", "braking": True}]
    cars += [{"lead": "near", "turn": side} for side in ("left", "right")]
    scenes += [dataclasses.replace(EMPTY, lead_colour="blue", **car) for car in cars]
    scenes += [dataclasses.replace(EMPTY, turn_lane=side) for side in ("left", "right")]
    blocks = [{"person": "crossing"}, {"person": "sidewalk"}, {"rider": True}]
    blocks += [{"obstacle": kind} for kind in ("cones", "barrier")]
    scenes += [dataclasses.replace(EMPTY, **block) for block in blocks]
    images = [render_frame(scene, 0, 1) for scene in scenes]
    for i, first in enumerate(images):
        for second in images[:i]:
            # The same seed gives the same noise, so that any difference is the fact's.
            assert difference(first, second) > 0.25, (i, scenes[i])


def test_what_moves_moves():
    moving = [
        {"lead": "near", "lead_colour": "red", "braking": True},
        {"person": "crossing"},
        {"lead": "near", "lead_colour": "red", "turn": "left"},
    ]
    still = difference(render_frame(AT_JUNCTION, 0, 2), render_frame(AT_JUNCTION, 1, 2))
    for changes in moving:
        state = dataclasses.replace(AT_JUNCTION, **changes)
        assert difference(render_frame(state, 0, 2), render_frame(state, 1, 2)) > still + 0.5, changes


def test_noise_and_jitter_differ_between_scenes():
    other = dataclasses.replace(EMPTY, seed=1)
    assert render_frame(EMPTY, 0, 1).tobytes() != render_frame(other, 0, 1).tobytes()
