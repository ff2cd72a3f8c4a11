"""Answers of the second stage as a record: read, scored, and held against constant answers."""

import itertools
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from lvad.metrics.driving import Answers, bootstrap_scores, driving_scores
from lvad.metrics.floors import Labels, floor_answers
from lvad.ops import sequence_sum
from lvad.policy.hf import HFPolicy
from lvad.taxonomy import NUM_ACTIONS
from lvad.text import Flaw, parse, render
from lvad.types import UNLABELLED, AnsweredScene, Batch, Prefix, Scene, Table

SHOWN_SCORES: Final = ("macro_f1", "micro_f1", "f1_all", "exact_match", "bit_accuracy")
"""What the table of floors shows of actions and of reasons."""


ACTION_SETS: Final = torch.tensor(list(itertools.product((0, 1), repeat=NUM_ACTIONS)))
"""int64[2^A, A], every answer to what may be done."""


@torch.no_grad()
def action_probabilities(policy: HFPolicy, prefix: Prefix) -> Tensor:
    """P(action is in the answer), float[B, A], by the likelihoods of all 2^A action parts.

    They are scored behind one prefix in one packed forward. The end is left out: with reasons to follow, an answer
    does not end there.

    Args:
        policy: the model.
        prefix: B scenes with the prompt.
    """
    texts = [render(row) for row in ACTION_SETS.tolist()]
    targets = policy.targets([texts] * len(prefix.embeds))
    logps = policy.logprobs(prefix, targets)
    is_last = targets.completion_mask & (targets.completion_mask.flip(-1).cumsum(-1).flip(-1) == 1)
    scores = sequence_sum(logps, targets.completion_mask & ~is_last)
    return scores.float().softmax(-1) @ ACTION_SETS.to(scores.device, torch.float32)


def answered_scenes(
    batch: Batch, texts: Sequence[str], descriptions: Sequence[str], probabilities: Tensor, with_reasons: bool
) -> list[AnsweredScene]:
    """Read B answers.

    Args:
        batch: the scenes.
        texts: B answers as generated.
        descriptions: B descriptions that stood in the prompt; empty texts without one.
        probabilities: float[B, A], of the actions.
        with_reasons: False where the stage answers with actions alone: there a missing reason is no flaw.
    """
    found = []
    labels = batch.actions.tolist(), batch.reasons.tolist()
    rows = zip(batch.ids, texts, descriptions, probabilities.clamp(0, 1).tolist(), *labels, strict=True)
    for name, text, description, chances, actions, reasons in rows:
        answer = parse(text)
        flaws = [p for p in answer.problems if with_reasons or p.flaw is not Flaw.NO_REASON]
        found.append(
            AnsweredScene(
                id=name,
                description=description,
                text=text,
                actions=answer.actions,
                reasons=answer.reasons,
                is_valid=not flaws,
                action_probabilities=tuple(chances),
                reason_probabilities=(),
                true_actions=None if UNLABELLED in actions else tuple(actions),
                true_reasons=None if UNLABELLED in reasons else tuple(reasons),
            )
        )
    return found


def training_labels(scenes: Sequence[Scene], with_reasons: bool) -> Labels | None:
    """The labels that a constant answer may be learnt from; None where the training scenes have none."""
    known = [s for s in scenes if s.actions is not None and (s.reasons is not None or not with_reasons)]
    if not known:
        return None
    reasons = torch.tensor([s.reasons for s in known]) if with_reasons else None
    return Labels(torch.tensor([s.actions for s in known]), reasons)


def floors(answers: Answers, training: Labels) -> dict[str, Answers]:
    """Constant answers to the scenes of ``answers``."""
    return floor_answers(Labels(answers.true_actions, answers.true_reasons), training)


def floors_table(answers: Answers, constant: dict[str, Answers]) -> Table:
    """The model's scores with their 95 % intervals beside those of constant answers, in percent.

    Args:
        answers: the model's.
        constant: as of ``floors``.
    """
    kinds = ("action", "reason") if answers.reasons is not None else ("action",)
    names = [f"{kind}_{score}" for kind in kinds for score in SHOWN_SCORES]
    own = bootstrap_scores(answers)
    others = {name.replace("_", " "): driving_scores(said) for name, said in constant.items()}
    rows = []
    for name in names:
        mean, low, high = (f"{100 * value:.1f}" for value in own[name])
        rows.append((name, f"{mean} ({low} to {high})", *(f"{100 * o[name].item():.1f}" for o in others.values())))
    title = f"Scores on {len(answers.actions)} test scenes and what constant answers reach, %"
    return Table(title, ("score", "model (95 % interval)", *others), tuple(rows))
