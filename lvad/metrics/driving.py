"""Scores of actions and reasons against the labels, every score under its own name.

The paper reports single-label accuracy as macro-F1 and the share of STOP as the score of a model that says nothing
else. Here ``action_macro_f1``, ``action_exact_match`` and the others are separate scores, ``lvad.metrics.floors`` has
the scores of constant answers on the same scenes, and every score has an interval.

Departures:
    1. ``f1_all`` is the mean over scenes of the paper's formula (section 5.1) and of Xu et al. 2020, not the "global
       aggregation" of its text; that is ``micro_f1``.
    2. An answer counts as it was read, flaws or not, but one that reads as empty and is invalid matches nothing.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lvad.metrics.intervals import Interval
from lvad.metrics.multilabel import bootstrap, multilabel_scores, percentile_interval, probability_scores
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.types import UNLABELLED, AnsweredScene


class Answers(NamedTuple):
    """The answered and the true labels of B scenes; labels are zeros and ones, int or bool."""

    actions: Tensor
    """int[B, A], the answered actions."""
    true_actions: Tensor
    """int[B, A], the true actions."""
    is_valid: Tensor
    """bool[B], False where the answer could not be parsed without a flaw."""
    reasons: Tensor | None = None
    """int[B, R], the answered reasons; None where the stage predicts no reasons."""
    true_reasons: Tensor | None = None
    """int[B, R], the true reasons; not used without ``reasons``."""
    action_probabilities: Tensor | None = None
    """float[B, A] in [0, 1]; None where they were not computed."""
    reason_probabilities: Tensor | None = None
    """float[B, R] in [0, 1]; None where they were not computed. They need ``reasons``."""
    taxonomy: Taxonomy = BDD_OIA
    """The label set."""


def check_label_matrix(labels: Tensor, name: str, shape: tuple[int, ...]) -> None:
    """Refuse a tensor that is no complete matrix of labels.

    Raises:
        ValueError: for another shape, floating point, or entries other than 0 and 1.
    """
    if labels.shape != shape or labels.is_floating_point():
        raise ValueError(f"{name} must be int or bool {list(shape)}, got {labels.dtype} {list(labels.shape)}")
    if (labels == UNLABELLED).any():
        raise ValueError(f"{name} has UNLABELLED ({UNLABELLED}) entries; only scenes with labels can be scored")
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError(f"{name} must be 0 or 1, got {sorted(labels.unique().tolist())[:5]}")


def check_answers(answers: Answers) -> None:
    """Refuse answers that cannot be scored.

    Raises:
        ValueError: for labels that ``check_label_matrix`` refuses, numbers of scenes that differ, probabilities outside
            [0, 1], or reasons without their truth.
    """
    size, num_actions, num_reasons = (
        answers.actions.shape[:1],
        len(answers.taxonomy.actions),
        len(answers.taxonomy.reasons),
    )
    check_label_matrix(answers.actions, "actions", (*size, num_actions))
    check_label_matrix(answers.true_actions, "true_actions", (*size, num_actions))
    check_label_matrix(answers.is_valid, "is_valid", tuple(size))
    if answers.reasons is not None:
        if answers.true_reasons is None:
            raise ValueError("reasons are given without true_reasons")
        check_label_matrix(answers.reasons, "reasons", (*size, num_reasons))
        check_label_matrix(answers.true_reasons, "true_reasons", (*size, num_reasons))
    elif answers.reason_probabilities is not None:
        raise ValueError("reason_probabilities are given without reasons")
    for name, width in (("action_probabilities", num_actions), ("reason_probabilities", num_reasons)):
        p = getattr(answers, name)
        if p is None:
            continue
        if p.shape != (*size, width) or not p.is_floating_point():
            raise ValueError(f"{name} must be float {[*size, width]}, got {p.dtype} {list(p.shape)}")
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError(f"{name} must be in [0, 1], got {p.min().item():.4g} to {p.max().item():.4g}")


def answers_of(scenes: Sequence[AnsweredScene], with_reasons: bool = True, taxonomy: Taxonomy = BDD_OIA) -> Answers:
    """Gather the answers of a run and the true labels into tensors.

    Args:
        scenes: at least one, all with labels.
        with_reasons: False where the stage answers with actions only.
        taxonomy: the label set.

    Raises:
        ValueError: if there are no scenes, one lacks labels, or some have probabilities and others none.
    """
    if not scenes:
        raise ValueError("no scenes to score")
    for scene in scenes:
        if scene.true_actions is None or (with_reasons and scene.true_reasons is None):
            raise ValueError(f"scene {scene.id} has no labels; only scenes with labels can be scored")

    def column(name: str) -> Any:
        rows = [getattr(scene, name) for scene in scenes]
        if name.endswith("probabilities") and not any(rows):
            return None
        if len({len(row) for row in rows}) > 1:
            raise ValueError(f"{name} must be as many in every scene, got {sorted({len(row) for row in rows})}")
        return torch.tensor(rows)

    names = ["actions", "true_actions", "action_probabilities"]
    names += ["reasons", "true_reasons", "reason_probabilities"] if with_reasons else []
    columns = {name: column(name) for name in names}
    answers = Answers(**columns, is_valid=torch.tensor([s.is_valid for s in scenes]), taxonomy=taxonomy)
    check_answers(answers)
    return answers


def scores_of_draws(answers: Answers, drawn: Tensor) -> dict[str, Tensor]:
    """Compute every score for D selections of the scenes.

    Args:
        answers: N checked scenes.
        drawn: int64[D, S], scene numbers.

    Returns:
        float[D] by name; ``driving_scores`` lists the names.
    """
    parts = answers._asdict()
    names: Taxonomy = parts.pop("taxonomy")
    answers = answers._replace(**{name: part.cpu() for name, part in parts.items() if part is not None})
    is_valid = answers.is_valid.bool()
    values = {"parse_failure": (~is_valid).float()[drawn].mean(1)}
    kinds = [("action", names.action_names, answers.actions, answers.true_actions, answers.action_probabilities)]
    if answers.reasons is not None and answers.true_reasons is not None:
        kinds.append(("reason", names.reason_keys, answers.reasons, answers.true_reasons, answers.reason_probabilities))
    for kind, classes, predicted, true, probabilities in kinds:
        scores = multilabel_scores(predicted.bool(), true.bool(), is_valid, drawn)._asdict()
        if probabilities is not None:
            scores |= probability_scores(probabilities, true.bool(), drawn)._asdict()
        for name, value in scores.items():
            if value.dim() == 1:
                values[f"{kind}_{name}"] = value
            else:
                values |= {f"{kind}_{name}/{label}": value[:, i] for i, label in enumerate(classes)}
    return values


def driving_scores(answers: Answers) -> dict[str, Tensor]:
    """Compute every score of the answers to N scenes.

    Returns:
        float[] each in 0 .. 1, with ``action_`` and, where reasons are predicted, ``reason_``:
        ``action_macro_f1``, ``action_micro_f1``, ``action_f1_all``, ``action_exact_match``, ``action_bit_accuracy``;
        ``action_precision/forward``, ``action_recall/...``, ``action_f1/...`` per class (reasons by their key);
        ``action_auroc``, ``action_ece`` where probabilities are given;
        ``parse_failure``, share of scenes whose answer is invalid.
        ``lvad.metrics.multilabel`` has the formula of each.

    Raises:
        ValueError: for answers as in ``check_answers``, or none.
    """
    check_answers(answers)
    return {name: value[0] for name, value in scores_of_draws(answers, _all_once(answers)).items()}


def _all_once(answers: Answers) -> Tensor:
    if not len(answers.actions):
        raise ValueError("no scenes to score")
    return torch.arange(len(answers.actions))[None]


def bootstrap_scores(
    answers: Answers, confidence: float = 0.95, num_draws: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Compute every score with its percentile bootstrap interval over scenes.

    Args:
        answers: N scenes.
        confidence: share of the draws between low and high.
        num_draws: resamples of N scenes with replacement; each is scored anew, as a macro-F1 is no mean over scenes.
            A rare class is missing from some resamples and has F1 0 there, so its interval is biased down.
        seed: the same scenes give the same interval.

    Returns:
        Intervals by name; ``mean`` is the score of all scenes, not the mean of the draws.

    Raises:
        ValueError: for answers as in ``driving_scores``.

    Source:
        Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    values = driving_scores(answers)
    draws = bootstrap(partial(scores_of_draws, answers), len(answers.actions), num_draws, seed)
    return {name: percentile_interval(value, draws[name], confidence) for name, value in values.items()}


def bootstrap_differences(
    first: Answers, second: Answers, confidence: float = 0.95, num_draws: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Compute the differences of all scores, first minus second, with the intervals of the paired bootstrap.

    Both are scored on the same draws, so that the difficulty of a scene for both does not widen the interval.

    Args:
        first: N scenes.
        second: the same scenes in the same order.
        confidence: as in ``bootstrap_scores``.
        num_draws: as in ``bootstrap_scores``.
        seed: as in ``bootstrap_scores``.

    Raises:
        ValueError: as ``driving_scores``, or if the true labels differ, so that the scenes are not the same.
    """
    values, others = driving_scores(first), driving_scores(second)
    for name in ("true_actions", "true_reasons"):
        one, other = getattr(first, name), getattr(second, name)
        if one is not None and other is not None and not torch.equal(one.cpu().bool(), other.cpu().bool()):
            raise ValueError(f"{name} differ; a paired comparison needs the same scenes in the same order")
    draws, other_draws = (
        bootstrap(partial(scores_of_draws, answers), len(answers.actions), num_draws, seed)
        for answers in (first, second)
    )
    return {
        name: percentile_interval(value - others[name], draws[name] - other_draws[name], confidence)
        for name, value in values.items()
        if name in others
    }
