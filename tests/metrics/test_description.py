"""Descriptions of held-out scenes, by hand."""

import pytest
import torch

from lvad.metrics.description import DescriptionScore
from lvad.types import Rollouts, Scores


def said(*texts, cut=()):
    """A completion per scene with as many tokens as its text has letters."""
    mask = torch.tensor([[[i < len(text) for i in range(4)]] for text in texts])
    zeros = torch.zeros(mask.shape)
    is_truncated = torch.tensor([[text in cut] for text in texts])
    return Rollouts(zeros.long(), mask, zeros, zeros, is_truncated, [[text] for text in texts])


def scores(*rewards):
    total = torch.tensor(rewards).unsqueeze(1)
    return Scores(total, {"half": total / 2})


def test_each_scene_counts_once():
    metric = DescriptionScore()
    metric.update(["s0", "s1"], said("a", "abc", cut=("abc",)), scores(1.0, 2.0), [None, None])
    metric.update(["s2", "s3", "s0"], said("a", "a", "ab"), scores(3.0, 6.0, 99.0), [None] * 3)
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found == {"reward": 3.0, "length": 1.5, "truncated": 0.25, "distinct": 0.5, "reward_half": 1.5}
    metric.reset()
    with pytest.raises(ValueError, match="call update first"):
        metric.compute()
