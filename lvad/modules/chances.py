"""How probable the parts of an answer are, by scoring whole answers behind one prefix."""

import itertools
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from lvad.ops import sequence_sum
from lvad.policy.hf import HFPolicy
from lvad.policy.tokens import without_end
from lvad.taxonomy import MIRRORED_ACTIONS, MIRRORED_REASONS, NUM_ACTIONS, NUM_REASONS
from lvad.text import render
from lvad.types import Prefix, Rollouts

ACTION_SETS: Final = torch.tensor(list(itertools.product((0, 1), repeat=NUM_ACTIONS)))
"""int64[2^A, A], every answer to what may be done."""
MIRRORED_SETS: Final = tuple(ACTION_SETS.tolist().index(row) for row in ACTION_SETS[:, list(MIRRORED_ACTIONS)].tolist())
"""Entry i: the row of ``ACTION_SETS`` that is right in the mirrored scene where row i is right in the scene itself."""
TEXTS_AT_ONCE: Final = 8
"""Texts of a scene in one packed forward: the memory of attention grows with the square of their number."""


class Chances(NamedTuple):
    """How probable the parts of an answer are in the model's own law."""

    action_sets: Tensor
    """float[B, 2^A], log-probabilities of the rows of ``ACTION_SETS``."""
    reasons: Tensor | None
    """float[B, R]; None where the stage names none."""

    @property
    def actions(self) -> Tensor:
        """float[B, A], the probability that an action is in the answer."""
        # A sum and no matrix product, here and below: autocast would take that in bfloat16.
        sets = ACTION_SETS.to(self.action_sets.device)
        return (self.action_sets.exp().unsqueeze(-1) * sets).sum(-2)

    @property
    def mirrored(self) -> "Chances":
        """Those of the mirrored scene, left and right exchanged; twice is these themselves."""
        reasons = None if self.reasons is None else self.reasons[:, list(MIRRORED_REASONS)]
        return Chances(self.action_sets[:, list(MIRRORED_SETS)], reasons)


def mean_chances(views: Sequence[Chances]) -> Chances:
    """The mean of the probabilities over several views of the same scenes, each counting the same.

    Args:
        views: at least one; all with reasons, or none.
    """
    sets = torch.stack([view.action_sets for view in views]).logsumexp(0) - math.log(len(views))
    reasons = [view.reasons for view in views if view.reasons is not None]
    return Chances(sets, torch.stack(reasons).mean(0) if reasons else None)


@torch.no_grad()
def action_set_logps(policy: HFPolicy, prefix: Prefix) -> Tensor:
    """Log-probability of every action part, float32[B, 2^A], normalised over them.

    They are scored behind one prefix. The end is left out: with reasons to follow, an answer does not end there.

    Args:
        policy: the model.
        prefix: B scenes with the prompt.
    """
    texts = [render(row) for row in ACTION_SETS.tolist()]
    return _text_logps(policy, prefix, [texts] * len(prefix.lengths), with_end=False).log_softmax(-1)


@torch.no_grad()
def reason_probabilities(policy: HFPolicy, prefix: Prefix, actions: Tensor, reasons: Tensor) -> Tensor:
    """P(reason is in the answer, everything else as answered), float[B, R].

    All 2^R sets cannot be scored, and one reason's probability depends on the others that are named. So each is held
    against the same answer with that reason left out or put in: the full conditional of the model's law, exact.

    Args:
        policy: the model.
        prefix: B scenes with the prompt.
        actions: int[B, A], as answered.
        reasons: int[B, R], as answered.
    """
    flips = torch.cat([torch.zeros(1, NUM_REASONS, dtype=torch.long), torch.eye(NUM_REASONS, dtype=torch.long)])
    sets = [(row ^ flips).tolist() for row in reasons.long().cpu()]
    texts = [[render(said, others) for others in rows] for said, rows in zip(actions.tolist(), sets, strict=True)]
    logps = _text_logps(policy, prefix, texts, with_end=True)
    is_named = reasons.to(logps.device).bool()
    gain = logps[:, :1] - logps[:, 1:]  # of the answer over the one with this reason flipped
    return torch.where(is_named, gain, -gain).sigmoid()


def _text_logps(policy: HFPolicy, prefix: Prefix, texts: list[list[str]], with_end: bool) -> Tensor:
    """float32[B, N], log-probabilities of N texts of each scene; ``with_end``: with nothing behind them."""
    parts = []
    for begin in range(0, len(texts[0]), TEXTS_AT_ONCE):
        targets = policy.targets([row[begin : begin + TEXTS_AT_ONCE] for row in texts])
        if with_end:
            ends = [_ended_by(targets, end_id) for end_id in policy.end_ids]
            logps = [sequence_sum(policy.logprobs(prefix, said), said.completion_mask).float() for said in ends]
            parts.append(torch.stack(logps).logsumexp(0))  # a text has ended whichever token ends it
        else:
            parts.append(sequence_sum(policy.logprobs(prefix, targets), without_end(targets)).float())
    return torch.cat(parts, 1)


def _ended_by(targets: Rollouts, end_id: int) -> Rollouts:
    is_end = targets.completion_mask & ~without_end(targets)
    return targets._replace(tokens=targets.tokens.masked_fill(is_end, end_id))


def balanced_choice(action_sets: Tensor, shares: Tensor, strength: float) -> Tensor:
    """The action set of each scene that is best once common actions are made dearer, int64[B, A].

    log P(set) - strength * sum over its actions of logit(share): with strength 1, the sets are compared as if every
    action were true of half of the scenes.

    Args:
        action_sets: float[B, 2^A], as of ``action_set_logps``.
        shares: float[A], how often each action is true of the training scenes.
        strength: 0 takes the most probable set.

    Source:
        Menon et al. 2021 (arXiv:2007.07314), post-hoc logit adjustment, for independent labels.
    """
    sets = ACTION_SETS.to(action_sets.device)
    price = (sets * shares.clamp(1e-3, 1 - 1e-3).logit().to(action_sets.device)).sum(-1)
    return sets[(action_sets - strength * price).argmax(-1)]
