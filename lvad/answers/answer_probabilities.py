"""Probabilities of the parts of an answer, from the scores of whole answers after one encoded prompt."""

import itertools
import math
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

import torch
from torch import Tensor

from lvad.ops import sequence_sum
from lvad.policy.hf import HFPolicy
from lvad.policy.tokens import without_end
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.text import render
from lvad.types import Prefix, Rollouts

TEXTS_AT_ONCE: Final = 8
"""Texts of a scene in one packed forward pass: the memory of attention grows with the square of their number."""


@cache
def all_action_sets(num_actions: int) -> Tensor:
    """List every set of actions, int64[2^A, A]."""
    return torch.tensor(list(itertools.product((0, 1), repeat=num_actions)))


@cache
def mirrored_sets(taxonomy: Taxonomy) -> tuple[int, ...]:
    """Map each row of ``all_action_sets`` to the row that is right in the mirrored scene where it is right itself."""
    sets = all_action_sets(taxonomy.num_actions)
    rows = sets.tolist()
    return tuple(rows.index(row) for row in sets[:, list(taxonomy.mirrored_actions)].tolist())


def sets_of(logps: Tensor) -> Tensor:
    """List the action sets int64[2^A, A] of log-probabilities float[B, 2^A], on their device."""
    return all_action_sets(logps.shape[-1].bit_length() - 1).to(logps.device)


class AnswerProbabilities(NamedTuple):
    """Probabilities of the parts of an answer in the model's own distribution."""

    action_sets: Tensor
    """float[B, 2^A], log-probabilities of the rows of ``all_action_sets``."""
    reasons: Tensor | None
    """float[B, R]; None if the stage names no reasons."""

    @property
    def actions(self) -> Tensor:
        """The probability that each action is in the answer, float[B, A]."""
        # A sum and no matrix product, here and below: autocast would take that in bfloat16.
        sets = sets_of(self.action_sets)
        return (self.action_sets.exp().unsqueeze(-1) * sets).sum(-2)

    def mirrored(self, taxonomy: Taxonomy = BDD_OIA) -> "AnswerProbabilities":
        """Exchange left and right: the probabilities of the mirrored scene; twice gives the same again."""
        reasons = None if self.reasons is None else self.reasons[:, list(taxonomy.mirrored_reasons)]
        return AnswerProbabilities(self.action_sets[:, list(mirrored_sets(taxonomy))], reasons)


def mean_probabilities(views: Sequence[AnswerProbabilities]) -> AnswerProbabilities:
    """Average the probabilities over several views of the same scenes, with equal weights.

    Args:
        views: at least one; all with reasons, or none.
    """
    sets = torch.stack([view.action_sets for view in views]).logsumexp(0) - math.log(len(views))
    reasons = [view.reasons for view in views if view.reasons is not None]
    return AnswerProbabilities(sets, torch.stack(reasons).mean(0) if reasons else None)


@torch.no_grad()
def action_set_logps(policy: HFPolicy, prefix: Prefix, taxonomy: Taxonomy = BDD_OIA) -> Tensor:
    """Compute the log-probability of every set of actions, float32[B, 2^A], normalised over the sets.

    They are scored after one encoded prompt, without an end token: where reasons follow, an answer does not end there.

    Args:
        policy: the model.
        prefix: B encoded prompts.
        taxonomy: what the actions are called.
    """
    texts = [render(row, None, taxonomy) for row in all_action_sets(taxonomy.num_actions).tolist()]
    return _text_logps(policy, prefix, [texts] * len(prefix.lengths), with_end=False).log_softmax(-1)


@torch.no_grad()
def reason_probabilities(
    policy: HFPolicy, prefix: Prefix, actions: Tensor, reasons: Tensor, taxonomy: Taxonomy = BDD_OIA
) -> Tensor:
    """Compute P(reason is in the answer, everything else as answered), float[B, R].

    All 2^R sets cannot be scored, and one reason's probability depends on the others that are named. So each answer is
    compared with the same answer with that reason left out or added: the exact full conditional of the model.

    Args:
        policy: the model.
        prefix: B encoded prompts.
        actions: int[B, A], as answered.
        reasons: int[B, R], as answered.
        taxonomy: what the labels are called.
    """
    one_each = torch.eye(taxonomy.num_reasons, dtype=torch.long)
    flips = torch.cat([torch.zeros_like(one_each[:1]), one_each])
    sets = [(row ^ flips).tolist() for row in reasons.long().cpu()]
    pairs = zip(actions.tolist(), sets, strict=True)
    texts = [[render(said, others, taxonomy) for others in rows] for said, rows in pairs]
    logps = _text_logps(policy, prefix, texts, with_end=True)
    is_named = reasons.to(logps.device).bool()
    gain = logps[:, :1] - logps[:, 1:]  # of the answer over the one with this reason flipped
    return torch.where(is_named, gain, -gain).sigmoid()


def _text_logps(policy: HFPolicy, prefix: Prefix, texts: list[list[str]], with_end: bool) -> Tensor:
    """Compute log-probabilities of N texts of each scene, float32[B, N]; ``with_end``: of ending there too."""
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
    """Choose the best action set of each scene with a penalty on common actions, int64[B, A].

    log P(set) - strength * sum over its actions of logit(share): with strength 1, the sets are compared as if every
    action were true of half of the scenes.

    Args:
        action_sets: float[B, 2^A], as returned by ``action_set_logps``.
        shares: float[A], how often each action is true of the training scenes.
        strength: 0 takes the most probable set.

    Source:
        Menon et al. 2021 (arXiv:2007.07314), post-hoc logit adjustment, for independent labels.
    """
    sets = sets_of(action_sets)
    price = (sets * shares.clamp(1e-3, 1 - 1e-3).logit().to(action_sets.device)).sum(-1)
    return sets[(action_sets - strength * price).argmax(-1)]
