"""Descriptions and hidden frames."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from lvad.modules.describing import GREY, Describer, Description
from lvad.policy import Sampling
from lvad.text import Prompts


def test_hidden_frames_are_grey_and_the_rest_is_untouched(make_batch):
    batch = make_batch(*[2] * 200)
    torch.manual_seed(0)
    hidden = Describer(Description(hide_frames=0.25)).hide(batch, is_training=True)
    is_grey = [bool((frames == GREY).all()) for frames in hidden.frames]
    assert 30 <= sum(is_grey) <= 70  # 50 expected, deviation 6
    for grey, before, after in zip(is_grey, batch.frames, hidden.frames, strict=True):
        assert before.shape == after.shape
        assert grey or torch.equal(before, after)
    assert not any((frames == GREY).all() for frames in batch.frames)  # the caller's frames stay


def test_nothing_is_hidden_in_evaluation_or_without_a_description(make_batch):
    batch = make_batch(1, 1)
    assert Describer(Description(hide_frames=1.0)).hide(batch, is_training=False) is batch
    assert Describer(None).hide(batch, is_training=True) is batch
    assert Describer(Description()).hide(batch, is_training=True) is batch


def test_without_a_description_nothing_is_said(make_batch):
    assert Describer(None).describe(None, make_batch(1, 1), is_training=True) == ["", ""]


def test_a_share_is_a_share():
    for share in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"hide_frames must be in \[0, 1\]"):
            Description(hide_frames=share)


class Repeats:
    """Says its prompt and the first pixel of a scene."""

    sampling = Sampling(max_new_tokens=4)

    def __init__(self, describe):
        self.prompts = Prompts(describe=describe)

    @contextmanager
    def as_reference(self):
        yield self

    def encode(self, batch):
        return [f"{self.prompts.describe} {int(frames.flatten()[0])}" for frames in batch.frames]

    def generate(self, prefix, num_completions, greedy):
        return SimpleNamespace(texts=[[text] for text in prefix])


def test_a_kept_description_is_that_of_the_picture_and_the_prompt_and_not_of_the_id(make_batch):
    describer, first, other = Describer(Description()), make_batch(1), make_batch(1, seed=1)
    assert first.ids == other.ids
    pixels = [int(batch.frames[0].flatten()[0]) for batch in (first, other)]
    assert pixels[0] != pixels[1]
    for prompt in ("a", "b"):
        for batch, pixel in zip((first, other), pixels, strict=True):
            assert describer.describe(Repeats(prompt), batch, is_training=False) == [f"{prompt} {pixel}"]
    describer._say = None  # all four are known
    assert describer.describe(Repeats("a"), first, is_training=False) == [f"a {pixels[0]}"]
