"""A reward that scores the reason of an answer and nothing else."""

import re
from typing import Final

import torch
from torch import nn

from lvad.rewards.mix import check_part
from lvad.types import Batch, Reward, Rollouts, Scores

_REASON: Final = re.compile(r"reason:\s*(?P<words>[^.]*)", re.IGNORECASE)


class OnReason(nn.Module):
    """Another reward's score of the words after "Reason:", which Appendix A.3 of the paper calls R1.

    An answer without a reason, or with an empty one, gets ``missing``, because a CLIP may score the empty text higher
    than a wrong reason.

    Args:
        reward: scores the words of the reason.
        missing: the score without a reason; -1 is the lowest cosine.

    Raises:
        ValueError: if the reward is no ``nn.Module``.
    """

    def __init__(self, reward: Reward, missing: float = -1.0) -> None:
        super().__init__()
        check_part("on reason", reward)
        self.reward, self.missing = reward, missing
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "OnReason":
        """Stay in evaluation mode: a reward must not change during training."""
        return super().train(False)

    @torch.no_grad()
    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        """Score the reasons, float[B, K] in that reward's unit; the terms are its own, before ``missing``."""
        reasons = [[reason_of(text) for text in row] for row in rollouts.texts]
        scores = self.reward.score(batch, rollouts._replace(texts=reasons))
        is_given = torch.tensor([[bool(reason) for reason in row] for row in reasons], device=scores.total.device)
        return Scores(scores.total.where(is_given, self.missing), scores.terms)


def reason_of(text: str) -> str:
    """Return the words after "Reason:", up to the full stop; empty where there are none."""
    match = _REASON.search(text)
    return match["words"].strip() if match else ""
