"""A judge of the justification alone."""

import pytest
import torch

from lvad.rewards import OnReason
from lvad.rewards.reason import reason_of
from lvad.types import Rollouts, Scores


class Length(torch.nn.Module):
    """As many points as letters; it remembers what it was shown."""

    def score(self, batch, rollouts):
        self.shown = rollouts.texts
        total = torch.tensor([[float(len(text)) for text in row] for row in rollouts.texts])
        return Scores(total, {"letters": total})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Action: stop. Reason: traffic light is not green.", "traffic light is not green"),
        ("Action: stop. REASON:  a car , a person. More.", "a car , a person"),
        ("Action: stop.", ""),
        ("Action: stop. Reason: .", ""),
        ("", ""),
    ],
)
def test_the_words_behind_reason(text, reason):
    assert reason_of(text) == reason


def test_what_gives_no_reason_earns_the_least_and_is_not_shown():
    judge = Length()
    texts = [["Action: stop. Reason: red.", "Action: stop.", "Reason: ."]]
    rollouts = Rollouts(*[torch.zeros(1, 3, 1)] * 4, torch.zeros(1, 3, dtype=torch.bool), texts)
    scores = OnReason(judge).score(None, rollouts)
    assert scores.total.tolist() == [[3.0, -1.0, -1.0]]
    assert judge.shown == [["red", "", ""]]


def test_the_judge_is_frozen_and_must_be_a_module():
    judge = Length()
    judge.weight = torch.nn.Parameter(torch.ones(2))
    OnReason(judge)
    assert not judge.weight.requires_grad
    with pytest.raises(ValueError, match=r"must be an nn\.Module"):
        OnReason(object())
