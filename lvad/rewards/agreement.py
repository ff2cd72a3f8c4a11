"""The reward of a whole answer: its F1 against the labels of the scene."""

import torch
from torch import Tensor, nn

from lvad.rewards.reader import Reader
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.text import parse
from lvad.types import Batch, Rollouts, Scores


class Agreement(nn.Module):
    """F1 of an answer against the labels of its scene: the mean of the F1 of actions and the F1 of reasons, 0 to 1.

    The labels are those that the batch shows, else those that a reader was fitted on or is sure of. All completions of
    a scene without known labels get 0. The F1 of two empty sets is 1; an answer without an action part gets 0.

    Args:
        model: the folder that a run of ``TextReader`` exported.

    Raises:
        ValueError: for a folder that holds no reader.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        self.reader = Reader(model)

    @torch.no_grad()
    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        """Score the completions, float[B, K]; the term ``known`` is 1 where the scene has labels."""
        device, num_actions = rollouts.logps.device, batch.actions.shape[1]
        shown = torch.cat([batch.actions, batch.reasons], 1).tolist()
        rights = [self.reader.labels_of(name, row) for name, row in zip(batch.ids, shown, strict=True)]
        names = batch.taxonomy
        rows = [
            [
                0.0 if right is None else answer_f1(text, right[:num_actions], right[num_actions:], names)
                for text in texts
            ]
            for texts, right in zip(rollouts.texts, rights, strict=True)
        ]
        total: Tensor = torch.tensor(rows, dtype=torch.float32, device=device)
        known = torch.tensor([[float(right is not None)] for right in rights], device=device).expand_as(total)
        return Scores(total, {"agreement": total, "known": known})


def answer_f1(text: str, actions: list[int], reasons: list[int], taxonomy: Taxonomy = BDD_OIA) -> float:
    """Compute the mean of the F1 of actions and the F1 of reasons of an answer, in [0, 1].

    Args:
        text: the answer.
        actions: A zeros and ones.
        reasons: R zeros and ones.
        taxonomy: the label set.
    """
    answer = parse(text, taxonomy)
    if not any(answer.actions) and not answer.is_valid:
        return 0.0
    return (_f1(answer.actions, actions) + _f1(answer.reasons, reasons)) / 2


def _f1(said: tuple[int, ...], right: list[int]) -> float:
    total = sum(said) + sum(right)
    return 2 * sum(a & b for a, b in zip(said, right, strict=True)) / total if total else 1.0
