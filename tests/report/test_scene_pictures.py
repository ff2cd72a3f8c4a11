"""Pictures: sizes and refusals; how they look was judged by eye."""

import pytest
import torch

from lvad.report.scene_pictures import annotate_frames, draw_samples
from lvad.types import SceneSamples


def scene(height=128, width=128, num_frames=2, num_completions=3, words=10):
    frames = torch.randint(0, 256, (num_frames, 3, height, width), dtype=torch.uint8)
    numbers = [0.1 * k for k in range(num_completions)]
    return SceneSamples("id", frames, ["word " * words] * num_completions, numbers, numbers, {"clip": numbers})


@pytest.mark.parametrize(("height", "width", "num_frames"), [(128, 128, 2), (720, 1280, 1), (360, 640, 8), (1, 1, 1)])
def test_any_frames_fit_the_width(height, width, num_frames):
    picture = draw_samples(scene(height, width, num_frames))
    assert picture.mode == "RGB"
    assert picture.width == 960
    assert 60 < picture.height < 3000


def test_long_texts_make_no_endless_picture():
    assert draw_samples(scene(words=5000)).height < 2000
    assert annotate_frames(scene().frames, ["word " * 5000]).height < 2000


def test_lists_of_other_lengths_and_other_frames_are_refused():
    with pytest.raises(ValueError, match="rewards"):
        draw_samples(scene()._replace(rewards=[0.1]))
    with pytest.raises(ValueError, match="uint8"):
        annotate_frames(torch.zeros(2, 3, 8, 8), ["text"])
