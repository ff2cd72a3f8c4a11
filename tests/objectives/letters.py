"""A reward that every text can be scored by."""

import torch

from lvad.types import Scores


class Letters(torch.nn.Module):
    """The share of "a" among the letters; ``spoil`` breaks one reward of the first scene."""

    def __init__(self, spoil=None):
        super().__init__()
        self.spoil = spoil

    def score(self, batch, rollouts):
        total = torch.tensor([[text.count("a") / max(len(text), 1) for text in row] for row in rollouts.texts])
        if self.spoil is not None:
            total[0, 0] = self.spoil
        return Scores(total, {"letters": total})
