"""How stage 2 decides: greedily after one prompt, or by the mean of the probabilities over several views."""

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
    """Options of voting: several views of every scene, whose probabilities are averaged before the decision.

    Args:
        votes: descriptions of each view, drawn anew; 1 takes the greedy one.
        mirrored: view every scene mirrored too, described as it looks then; left and right are exchanged back.

    Raises:
        ValueError: for less than one vote.
    """

    votes: int = 1
    mirrored: bool = False

    def __post_init__(self) -> None:
        if self.votes < 1:
            raise ValueError(f"votes must be at least 1, got {self.votes}")


class VotingView(NamedTuple):
    """One view of B scenes: the frames and the questions of one vote."""

    batch: Batch
    """The scenes as the policy sees them: hidden or mirrored."""
    questions: list[str]
    """B questions, each with the description that stands before it."""
    is_mirrored: bool


class DecodedAnswers(NamedTuple):
    """B answers, with their probabilities."""

    texts: list[str]
    probabilities: AnswerProbabilities | None
    """None if they were not asked for."""


@torch.no_grad()
def decode_answers(
    policy: HFPolicy,
    prefix: Prefix,
    with_reasons: bool,
    with_probabilities: bool,
    grammar: AnswerGrammar | None = None,
    shares: Tensor | None = None,
    logit_adjustment: float = 0.0,
    taxonomy: Taxonomy = BDD_OIA,
) -> DecodedAnswers:
    """Decode greedy answers after one prompt; the probabilities are the model's own, whatever the decision.

    Args:
        policy: the model.
        prefix: B encoded prompts.
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
        begin = _action_begin(policy, balanced_choice(sets, shares, logit_adjustment), taxonomy)
    rows = policy.generate(prefix, 1, greedy=True, grammar=grammar, begin=begin).texts
    texts = [row[0] for row in rows]
    if sets is None or not with_probabilities:
        return DecodedAnswers(texts, None)
    reasons = _parsed_reason_probabilities(policy, prefix, texts, taxonomy) if with_reasons else None
    return DecodedAnswers(texts, AnswerProbabilities(sets, reasons))


@torch.no_grad()
def vote(
    policy: HFPolicy,
    views: Sequence[VotingView],
    with_reasons: bool,
    grammar: AnswerGrammar | None = None,
    shares: Tensor | None = None,
    logit_adjustment: float = 0.0,
) -> DecodedAnswers:
    """Decide by the mean over views: first the action set, then after it each reason with a mean above one half.

    A view's prompt is encoded twice, so that the keys and values of only one prompt are in memory at a time.

    Args:
        policy: the model.
        views: of the same B scenes.
        with_reasons: whether answers name reasons.
        grammar: of the answers in which each view names its reasons.
        shares: as for ``decode_answers``.
        logit_adjustment: as for ``decode_answers``.
    """
    sets, taxonomy = mean_probabilities([_view_probabilities(policy, view) for view in views]), views[0].batch.taxonomy
    shares = torch.full((sets.actions.shape[1],), 0.5) if shares is None else shares
    actions = balanced_choice(sets.action_sets, shares, logit_adjustment)
    if not with_reasons:
        return DecodedAnswers([render(row, None, taxonomy) for row in actions.tolist()], sets)
    found = [_reason_probabilities_after(policy, view, actions, grammar) for view in views]
    probabilities = AnswerProbabilities(sets.action_sets, torch.stack(found).mean(0))
    named = (torch.stack(found).mean(0) > 0.5).int()
    texts = [render(*row, taxonomy) for row in zip(actions.tolist(), named.tolist(), strict=True)]
    return DecodedAnswers(texts, probabilities)


def voting_views(
    policy: HFPolicy, describer: Describer, batch: Batch, voting: Voting
) -> tuple[list[VotingView], list[str]]:
    """Make the views of B scenes; return them with the first description of each unmirrored scene."""
    views, first = [], None
    for is_mirrored, seen in enumerate([batch, mirror_batch(batch)] if voting.mirrored else [batch]):
        if voting.votes > 1:
            descriptions = describer.sample_descriptions(policy, seen, voting.votes)
        else:
            descriptions = [describer.describe(policy, seen, is_training=False)]
        first = first or descriptions[0]
        shown = describer.hide(seen, is_training=False)
        views += [VotingView(shown, questions(policy, row, batch.taxonomy), bool(is_mirrored)) for row in descriptions]
    return views, first or []


def questions(policy: HFPolicy, descriptions: Sequence[str], taxonomy: Taxonomy = BDD_OIA) -> list[str]:
    """Make B questions: each scene's description, which may be empty, and then the question for the decision."""
    question = policy.prompts.question(taxonomy)
    return [f"{description} {question}".strip() for description in descriptions]


def name_reasons(policy: HFPolicy, view: VotingView, actions: Tensor, grammar: AnswerGrammar | None) -> Tensor:
    """Decode the reasons int64[B, R] of a view after given actions int[B, A], both for the unmirrored scenes."""
    taxonomy = view.batch.taxonomy
    texts = _decode_after(policy, policy.encode(view.batch, view.questions), view, actions, grammar)
    reasons = torch.tensor([answer.reasons for answer in parse_answers(texts, True, taxonomy)])
    return reasons[:, list(taxonomy.mirrored_reasons)] if view.is_mirrored else reasons


def record_answers(
    batch: Batch, decoded: DecodedAnswers, descriptions: Sequence[str], with_reasons: bool
) -> list[AnsweredScene]:
    """Parse B answers and put them on record beside the labels."""
    answers = parse_answers(decoded.texts, with_reasons, batch.taxonomy)
    return answered_scenes(batch, decoded.texts, answers, descriptions, decoded.probabilities)


def _view_probabilities(policy: HFPolicy, view: VotingView) -> AnswerProbabilities:
    taxonomy = view.batch.taxonomy
    found = AnswerProbabilities(action_set_logps(policy, policy.encode(view.batch, view.questions), taxonomy), None)
    return found.mirrored(taxonomy) if view.is_mirrored else found


def _reason_probabilities_after(
    policy: HFPolicy, view: VotingView, actions: Tensor, grammar: AnswerGrammar | None
) -> Tensor:
    """P(reason) after the voted actions int[B, A], float[B, R], both for the unmirrored scenes."""
    prefix = policy.encode(view.batch, view.questions)
    taxonomy = view.batch.taxonomy
    found = _parsed_reason_probabilities(
        policy, prefix, _decode_after(policy, prefix, view, actions, grammar), taxonomy
    )
    return found[:, list(taxonomy.mirrored_reasons)] if view.is_mirrored else found


def _decode_after(
    policy: HFPolicy, prefix: Prefix, view: VotingView, actions: Tensor, grammar: AnswerGrammar | None
) -> list[str]:
    """Decode B greedy answers of a view that begin with the given actions of the unmirrored scenes."""
    taxonomy = view.batch.taxonomy
    own = actions[:, list(taxonomy.mirrored_actions)] if view.is_mirrored else actions
    rows = policy.generate(prefix, 1, greedy=True, grammar=grammar, begin=_action_begin(policy, own, taxonomy)).texts
    return [row[0] for row in rows]


def _parsed_reason_probabilities(policy: HFPolicy, prefix: Prefix, texts: list[str], taxonomy: Taxonomy) -> Tensor:
    answers = parse_answers(texts, with_reasons=True, taxonomy=taxonomy)
    actions, reasons = (torch.tensor(part) for part in zip(*((a.actions, a.reasons) for a in answers), strict=True))
    return reason_probabilities(policy, prefix, actions, reasons, taxonomy)


def _action_begin(policy: HFPolicy, actions: Tensor, taxonomy: Taxonomy) -> Rollouts:
    """Tokens of the action part of answers, int[B, A], without the end token."""
    begin = policy.targets([[render(row, None, taxonomy)] for row in actions.tolist()])
    return begin._replace(completion_mask=without_end(begin))
