"""Floors: the scores of constant answers, which look at no image, on the same scenes.

``always_stop``: the constant action of the label set, BDD-OIA's stop; of the reasons that support it, the most frequent
one of training (the first of equals), none where training has none.
``majority``: the action set and the reason set most frequent in training, each by itself (of equals, the one that
sorts first). Its probabilities are the training frequencies of the classes, so a small calibration error alone proves
little.
``all_positive`` and ``all_negative``: every label, and no label; the latter is the floor of ``bit_accuracy``.

The probabilities of the other floors are their labels. All answers count as valid.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lvad.metrics.driving import Answers, check_label_matrix, driving_scores
from lvad.taxonomy import BDD_OIA, Taxonomy


class Labels(NamedTuple):
    """The true labels of N scenes, zeros and ones."""

    actions: Tensor
    """int[N, A]."""
    reasons: Tensor | None = None
    """int[N, R]; None where the stage predicts no reasons."""
    taxonomy: Taxonomy = BDD_OIA
    """The label set."""


def floor_answers(true: Labels, training: Labels) -> dict[str, Answers]:
    """Make the answers of the floors, which give every scene the same answer.

    Args:
        true: the scenes to score.
        training: the labels that a predictor may have learnt from, of other scenes.

    Returns:
        The answers of each floor, by the names of the module docstring.

    Raises:
        ValueError: for labels as in ``check_label_matrix``, no scenes on either side, or reasons without training ones.
    """
    _check(true, "true")
    _check(training, "training")
    if true.reasons is None:
        training = training._replace(reasons=None)
    elif training.reasons is None:
        raise ValueError("training.reasons must be given where true.reasons are")
    true, training = (_each(labels, lambda part: part.cpu().bool()) for labels in (true, training))
    constants = {
        true.taxonomy.floor.replace(" ", "_"): _constant(training),
        "majority": _each(training, _most_frequent_set),
        "all_positive": _each(training, lambda labels: labels.new_ones(labels.shape[1])),
        "all_negative": _each(training, lambda labels: labels.new_zeros(labels.shape[1])),
    }
    floors = {name: _answers(true, constant) for name, constant in constants.items()}
    often = _repeat(_each(training, lambda labels: labels.float().mean(0)), len(true.actions))
    floors["majority"] = floors["majority"]._replace(
        action_probabilities=often.actions, reason_probabilities=often.reasons
    )
    return floors


def floor_scores(true: Labels, training: Labels) -> dict[str, dict[str, Tensor]]:
    """Score ``floor_answers`` with ``driving_scores``.

    Args:
        true: the scenes to score.
        training: the labels that a predictor may have learnt from, of other scenes.

    Raises:
        ValueError: as ``floor_answers``.
    """
    return {name: driving_scores(answers) for name, answers in floor_answers(true, training).items()}


def _check(labels: Labels, name: str) -> None:
    size, names = labels.actions.shape[:1], labels.taxonomy
    if size == (0,):
        raise ValueError(f"{name} labels are of no scenes")
    check_label_matrix(labels.actions, f"{name}.actions", (*size, names.num_actions))
    if labels.reasons is not None:
        check_label_matrix(labels.reasons, f"{name}.reasons", (*size, names.num_reasons))


def _each(labels: Labels, change: Callable[[Tensor], Tensor]) -> Labels:
    reasons = None if labels.reasons is None else change(labels.reasons)
    return Labels(change(labels.actions), reasons, labels.taxonomy)


def _repeat(row: Labels, size: int) -> Labels:
    return _each(row, lambda labels: labels.expand(size, -1))


def _constant(training: Labels) -> Labels:
    """Make one answer, bool[A] and bool[R]: the label set's constant action and its most frequent reason."""
    names = training.taxonomy
    actions = torch.arange(names.num_actions) == names.constant
    if training.reasons is None:
        return Labels(actions, None, names)
    is_for_it = torch.tensor([reason.action == names.constant and reason.supports for reason in names.reasons])
    counts = training.reasons.sum(0) * is_for_it
    is_first = torch.arange(names.num_reasons) == (counts == counts.max()).nonzero()[0]
    return Labels(actions, is_first & (counts > 0), names)


def _most_frequent_set(labels: Tensor) -> Tensor:
    sets, counts = labels.unique(dim=0, return_counts=True)
    return sets[(counts == counts.max()).nonzero()[0, 0]]


def _answers(true: Labels, row: Labels) -> Answers:
    size = len(true.actions)
    said, certain = _repeat(row, size), _repeat(_each(row, Tensor.float), size)
    return Answers(
        actions=said.actions,
        true_actions=true.actions,
        is_valid=torch.ones(size, dtype=torch.bool),
        reasons=said.reasons,
        true_reasons=true.reasons,
        action_probabilities=certain.actions,
        reason_probabilities=certain.reasons,
        taxonomy=true.taxonomy,
    )
