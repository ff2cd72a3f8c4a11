"""How stage 2 decides: greedily behind one prompt, or by the mean of what several views of a scene make probable."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lvad.answers.answer_probabilities import (
    AnswerProbabilities,
    action_set_logps,
    balanced_choice,
    mean_probabilities,
    reason_probabilities,
)
from lvad.answers.answer_records import answered_scenes, parse_answers
from lvad.answers.describer import Describer
from lvad.data.augment import mirror_batch
from lvad.policy.grammar import AnswerGrammar
from lvad.policy.hf import HFPolicy
from lvad.policy.tokens import without_end
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.text import render
from lvad.types import AnsweredScene, Batch, Prefix, Rollouts


@dataclass(frozen=True)
class Voting:
    """Several views of every scene, whose probabilities are averaged before the answer is decided.

    Args:
        votes: descriptions of each view, drawn anew; 1 takes the greedy one.
        mirrored: look at every scene in a mirror too, described as it looks there; left and right are exchanged back.

    Raises:
        ValueError: for less than one vote.
    """

    votes: int = 1
    mirrored: bool = False

    def __post_init__(self) -> None:
        if self.votes < 1:
            raise ValueError(f"votes must be at least 1, got {self.votes}")


class View(NamedTuple):
    """B scenes as they are asked about once."""

    frames: Batch
    """As the question shows them, hidden or in a mirror."""
    queries: list[str]
    """B prompts."""
    is_mirrored: bool


class DecodedAnswers(NamedTuple):
    """B answers."""

    texts: list[str]
    probabilities: AnswerProbabilities | None
    """None where they were not asked for."""


@torch.no_grad()
def decide(
    policy: HFPolicy,
    prefix: Prefix,
    with_reasons: bool,
    with_probabilities: bool,
    grammar: AnswerGrammar | None = None,
    shares: Tensor | None = None,
    logit_adjustment: float = 0.0,
    taxonomy: Taxonomy = BDD_OIA,
) -> DecodedAnswers:
    """Greedy answers behind one prompt; the probabilities are those of the model, whatever the decision.

    Args:
        policy: the model.
        prefix: B scenes with the prompt.
        with_reasons: whether answers name reasons.
        with_probabilities: whether probabilities are wanted.
        grammar: of the answers; None lets the model write freely.
        shares: float[A], how often each action is true, for the adjustment.
        logit_adjustment: strength of ``balanced_choice``; 0 leaves the model's own decision.
        taxonomy: what the labels are called.
    """
    sets = action_set_logps(policy, prefix, taxonomy) if with_probabilities or logit_adjustment else None
    begin = None
    if sets is not None and shares is not None and logit_adjustment:
        begin = _begun(policy, balanced_choice(sets, shares, logit_adjustment), taxonomy)
    rows = policy.generate(prefix, 1, greedy=True, grammar=grammar, begin=begin).texts
    texts = [row[0] for row in rows]
    if sets is None or not with_probabilities:
        return DecodedAnswers(texts, None)
    return DecodedAnswers(
        texts, AnswerProbabilities(sets, _reasons(policy, prefix, texts, taxonomy) if with_reasons else None)
    )


@torch.no_grad()
def vote(
    policy: HFPolicy,
    views: Sequence[View],
    with_reasons: bool,
    grammar: AnswerGrammar | None = None,
    shares: Tensor | None = None,
    logit_adjustment: float = 0.0,
) -> DecodedAnswers:
    """Answers by the mean over views: first the action set, then, behind that one, each reason above one half.

    A view's prompt is read twice, so that one prompt's keys and values are in memory at a time.

    Args:
        policy: the model.
        views: of the same B scenes.
        with_reasons: whether answers name reasons.
        grammar: of the answers in which each view names its reasons.
        shares: as for ``decide``.
        logit_adjustment: as for ``decide``.
    """
    sets, taxonomy = mean_probabilities([_sets(policy, view) for view in views]), views[0].frames.taxonomy
    shares = torch.full((sets.actions.shape[1],), 0.5) if shares is None else shares
    actions = balanced_choice(sets.action_sets, shares, logit_adjustment)
    if not with_reasons:
        return DecodedAnswers([render(row, None, taxonomy) for row in actions.tolist()], sets)
    found = [_reasons_behind(policy, view, actions, grammar) for view in views]
    probabilities = AnswerProbabilities(sets.action_sets, torch.stack(found).mean(0))
    named = (torch.stack(found).mean(0) > 0.5).int()
    texts = [render(*row, taxonomy) for row in zip(actions.tolist(), named.tolist(), strict=True)]
    return DecodedAnswers(texts, probabilities)


def views_of(policy: HFPolicy, describer: Describer, batch: Batch, voting: Voting) -> tuple[list[View], list[str]]:
    """The views of B scenes, and the first description of each as they are."""
    views, first = [], None
    for is_mirrored, seen in enumerate([batch, mirror_batch(batch)] if voting.mirrored else [batch]):
        if voting.votes > 1:
            said = describer.sample(policy, seen, voting.votes)
        else:
            said = [describer.describe(policy, seen, is_training=False)]
        first = first or said[0]
        shown = describer.hide(seen, is_training=False)
        views += [View(shown, questions(policy, row, batch.taxonomy), bool(is_mirrored)) for row in said]
    return views, first or []


def questions(policy: HFPolicy, descriptions: Sequence[str], taxonomy: Taxonomy = BDD_OIA) -> list[str]:
    """B prompts that ask for the decision behind descriptions, which may be empty."""
    question = policy.prompts.question(taxonomy)
    return [f"{description} {question}".strip() for description in descriptions]


def name_reasons(policy: HFPolicy, view: View, actions: Tensor, grammar: AnswerGrammar | None) -> Tensor:
    """int64[B, R], the reasons that a view names behind given actions int[B, A]; both as of the scenes themselves."""
    names = view.frames.taxonomy
    texts = _written_behind(policy, policy.encode(view.frames, view.queries), view, actions, grammar)
    reasons = torch.tensor([answer.reasons for answer in parse_answers(texts, True, names)])
    return reasons[:, list(names.mirrored_reasons)] if view.is_mirrored else reasons


def record_answers(
    batch: Batch, decoded: DecodedAnswers, descriptions: Sequence[str], with_reasons: bool
) -> list[AnsweredScene]:
    """B answers as read, beside what is true."""
    answers = parse_answers(decoded.texts, with_reasons, batch.taxonomy)
    return answered_scenes(batch, decoded.texts, answers, descriptions, decoded.probabilities)


def _sets(policy: HFPolicy, view: View) -> AnswerProbabilities:
    names = view.frames.taxonomy
    found = AnswerProbabilities(action_set_logps(policy, policy.encode(view.frames, view.queries), names), None)
    return found.mirrored(names) if view.is_mirrored else found


def _reasons_behind(policy: HFPolicy, view: View, actions: Tensor, grammar: AnswerGrammar | None) -> Tensor:
    """float[B, R], P(reason) behind the voted actions int[B, A], both as of the scenes and not of their mirror."""
    prefix = policy.encode(view.frames, view.queries)
    names = view.frames.taxonomy
    found = _reasons(policy, prefix, _written_behind(policy, prefix, view, actions, grammar), names)
    return found[:, list(names.mirrored_reasons)] if view.is_mirrored else found


def _written_behind(
    policy: HFPolicy, prefix: Prefix, view: View, actions: Tensor, grammar: AnswerGrammar | None
) -> list[str]:
    """B greedy answers that begin with the scenes' actions, as a view sees them."""
    names = view.frames.taxonomy
    own = actions[:, list(names.mirrored_actions)] if view.is_mirrored else actions
    rows = policy.generate(prefix, 1, greedy=True, grammar=grammar, begin=_begun(policy, own, names)).texts
    return [row[0] for row in rows]


def _reasons(policy: HFPolicy, prefix: Prefix, texts: list[str], taxonomy: Taxonomy) -> Tensor:
    answers = parse_answers(texts, with_reasons=True, taxonomy=taxonomy)
    actions, reasons = (torch.tensor(part) for part in zip(*((a.actions, a.reasons) for a in answers), strict=True))
    return reason_probabilities(policy, prefix, actions, reasons, taxonomy)


def _begun(policy: HFPolicy, actions: Tensor, taxonomy: Taxonomy) -> Rollouts:
    """The action part of answers, int[B, A], without its end."""
    begin = policy.targets([[render(row, None, taxonomy)] for row in actions.tolist()])
    return begin._replace(completion_mask=without_end(begin))
