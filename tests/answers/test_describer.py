"""Descriptions and hidden frames."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from lvad.answers.describer import GREY, Describer, DescriptionOptions
from lvad.policy import Sampling
from lvad.text import Prompts
from lvad.types import Scores


def test_hidden_frames_are_grey_and_the_rest_is_untouched(make_batch):
    batch = make_batch(*[2] * 200)
    torch.manual_seed(0)
    hidden = Describer(DescriptionOptions(hide_frames=0.25)).hide(batch, is_training=True)
    is_grey = [bool((frames == GREY).all()) for frames in hidden.frames]
    assert 30 <= sum(is_grey) <= 70  # 50 expected, deviation 6
    for grey, before, after in zip(is_grey, batch.frames, hidden.frames, strict=True):
        assert before.shape == after.shape
        assert grey or torch.equal(before, after)
    assert not any((frames == GREY).all() for frames in batch.frames)  # the caller's frames stay


def test_nothing_is_hidden_in_evaluation_or_without_a_description(make_batch):
    batch = make_batch(1, 1)
    assert Describer(DescriptionOptions(hide_frames=1.0)).hide(batch, is_training=False) is batch
    assert Describer(None).hide(batch, is_training=True) is batch
    assert Describer(DescriptionOptions()).hide(batch, is_training=True) is batch


def test_without_a_description_nothing_is_said(make_batch):
    assert Describer(None).describe(None, make_batch(1, 1), is_training=True) == ["", ""]


def test_a_share_is_a_share():
    for name in ("hide_frames", "all_hidden_until"):
        for share in (-0.1, 1.1):
            with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\]"):
                DescriptionOptions(**{name: share})


def test_all_frames_are_hidden_first_and_a_share_later():
    style = DescriptionOptions(hide_frames=0.5, all_hidden_until=0.25)
    assert [style.hidden_share(True, progress) for progress in (0.0, 0.2, 0.25, 1.0)] == [1.0, 1.0, 0.5, 0.5]
    assert style.hidden_share(False, 0.0) == 0.0
    always = DescriptionOptions(text_only=True)
    assert always.hidden_share(True, 0.5) == always.hidden_share(False, 1.0) == 1.0


def test_a_reader_of_text_alone_sees_no_frame_in_evaluation_either(make_batch):
    describer, batch = Describer(DescriptionOptions(text_only=True)), make_batch(1, 2)
    for is_training in (False, True):
        assert all((frames == GREY).all() for frames in describer.hide(batch, is_training).frames)


def test_a_true_description_is_the_scenes_last_caption(make_batch):
    describer = Describer(DescriptionOptions(source="caption"))
    batch = make_batch(1, 1)._replace(captions=[("some", "all of it"), ("everything",)])
    assert describer.describe(None, batch, is_training=True) == ["all of it", "everything"]
    assert describer.is_oracle
    assert not describer.is_policy
    with pytest.raises(ValueError, match="scene-1 has no caption to stand as its true description"):
        describer.describe(None, batch._replace(captions=[("all",), ()]), is_training=False)
    with pytest.raises(ValueError, match="a true description is not sampled"):
        DescriptionOptions(sampled=True, source="caption")


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

    def generate(self, prefix, num_completions, greedy=False):
        return SimpleNamespace(
            texts=[[f"{text}{'' if greedy else i}" for i in range(num_completions)] for text in prefix]
        )


def test_a_kept_description_is_that_of_the_picture_and_the_prompt_and_not_of_the_id(make_batch):
    describer, first, other = Describer(DescriptionOptions()), make_batch(1), make_batch(1, seed=1)
    assert first.ids == other.ids
    pixels = [int(batch.frames[0].flatten()[0]) for batch in (first, other)]
    assert pixels[0] != pixels[1]
    for prompt in ("a", "b"):
        for batch, pixel in zip((first, other), pixels, strict=True):
            assert describer.describe(Repeats(prompt), batch, is_training=False) == [f"{prompt} {pixel}"]
    known = Repeats("a")
    known.generate = None  # all four are known
    assert describer.describe(known, first, is_training=False) == [f"a {pixels[0]}"]


def test_sampled_descriptions_come_draw_by_draw(make_batch):
    batch = make_batch(1, 1)
    pixels = [int(frames.flatten()[0]) for frames in batch.frames]
    drawn = Describer(DescriptionOptions()).sample_descriptions(Repeats("a"), batch, 3)
    assert drawn == [[f"a {pixel}{i}" for pixel in pixels] for i in range(3)]


class LikesLong(torch.nn.Module):
    """A reward that looks at the length alone."""

    def score(self, batch, rollouts):
        total = torch.tensor([[float(len(text)) for text in row] for row in rollouts.texts])
        return Scores(total, {"length": total})


class Speaks:
    """A policy that says what it is told to, the longest in the middle."""

    prompts, sampling = Prompts(), Sampling()

    @contextmanager
    def as_reference(self):
        yield self

    def encode(self, batch):
        return batch

    def generate(self, batch, num_completions, greedy=False):
        assert (num_completions, greedy) == (3, False)
        return SimpleNamespace(texts=[["a", "longest", "mid"] for _ in batch.ids])


def test_the_best_of_several_descriptions_is_kept(make_batch):
    describer = Describer(DescriptionOptions(best_of=3, reward=LikesLong()))
    assert describer.describe(Speaks(), make_batch(1, 1), is_training=False) == ["longest", "longest"]
    assert list(describer.kept_descriptions().values()) == ["longest", "longest"]
    assert isinstance(describer.reward, LikesLong)


def test_the_best_needs_a_judge_and_several_samples():
    for options in ({"best_of": 3}, {"reward": LikesLong()}, {"best_of": 0}):
        with pytest.raises(ValueError, match="best_of must be > 1 with a reward"):
            DescriptionOptions(**options)
    with pytest.raises(ValueError, match=r"set describe\.sampled false"):
        DescriptionOptions(best_of=3, reward=LikesLong(), sampled=True)
