"""Fits the reader on what was said of scenes: across folds, calibrated, with pseudo-labels for the other scenes.

Two regressions are fitted at a time. One reads a single description: it is the reward. The other reads all
descriptions of a scene at once, the mean of their features: it decides, and what it is sure of becomes a pseudo-label.
Each example counts a second time mirrored, words and labels.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lvad.metrics.calibration import fit_platt
from lvad.metrics.logistic import Logistic, fit_logistic
from lvad.taxonomy import BDD_OIA, Taxonomy


class SceneFeatures(NamedTuple):
    """S scenes as features of what was said of them: as it was said, and with left and right exchanged."""

    single: Tensor
    """float64[2, S, V, D], V of the descriptions of each scene."""
    mean: Tensor
    """float64[2, S, D], over all of them."""

    def choose(self, rows: Tensor) -> "SceneFeatures":
        """Those of bool[S] or int64[S]."""
        return SceneFeatures(self.single[:, rows], self.mean[:, rows])


class Models(NamedTuple):
    """What is fitted on some scenes."""

    single: Logistic
    """Reads one description."""
    whole: Logistic
    """Reads the mean of all."""


class Fit(NamedTuple):
    """Everything that was fitted."""

    models: list[Models]
    """F + 1; model f has not seen the labels of fold f, the last one has seen all."""
    calibration: Tensor
    """float64[2], slope and offset of P(the actions are right) in the confidence."""
    decided: Tensor
    """float64[n, C], the probabilities of the labelled scenes, each by the model that has not seen it."""
    pseudo: Tensor
    """float64[m, C], the probabilities of the other scenes."""
    pseudo_probability: Tensor
    """float64[m], that the actions are right."""


def folds_of(groups: Sequence[str], num_folds: int) -> list[int]:
    """The fold of each scene, by the name of its recording alone: a label cannot move it.

    Args:
        groups: of each scene; a group stays whole.
        num_folds: F, at most as many as there are groups.
    """
    ranked = sorted(set(groups), key=lambda name: hashlib.sha256(name.encode()).digest())
    place = {name: i % num_folds for i, name in enumerate(ranked)}
    return [place[name] for name in groups]


def confidence(probabilities: Tensor, num_actions: int = BDD_OIA.num_actions) -> Tensor:
    """Log-probability of the most probable actions, float64[S] of float64[S, C]; the first A labels are the actions."""
    actions = probabilities[:, :num_actions]
    return torch.maximum(actions, 1 - actions).log().sum(1)


def calibrate(probabilities: Tensor, labels: Tensor, num_actions: int = BDD_OIA.num_actions) -> Tensor:
    """Slope and offset of P(all actions right) in the confidence, float64[2].

    Where all decisions are right, or all wrong, or the surer ones are not the better ones, it is one probability for
    all: (right + 1) / (n + 2).

    Args:
        probabilities: float64[n, C].
        labels: float64[n, C], zeros and ones.
        num_actions: A, the first so many labels are the actions.
    """
    is_right = ((probabilities > 0.5) == labels.bool())[:, :num_actions].all(1)
    num_right = int(is_right.sum())
    if 0 < num_right < len(is_right):
        fitted = fit_platt(confidence(probabilities, num_actions), is_right)
        if fitted[0] > 0:
            return fitted
    rate = torch.tensor((num_right + 1) / (len(is_right) + 2), dtype=torch.float64)
    return torch.stack([torch.zeros_like(rate), rate.logit()])


def probability(probabilities: Tensor, calibration: Tensor, num_actions: int = BDD_OIA.num_actions) -> Tensor:
    """The calibrated P(all actions right), float64[S]."""
    return torch.sigmoid(calibration[0] * confidence(probabilities, num_actions) + calibration[1])


def cross_fit(
    said: SceneFeatures,
    labels: Tensor,
    folds: Tensor,
    other: SceneFeatures,
    penalty: float = 0.2,
    threshold: float = 0.9,
    rounds: int = 1,
    taxonomy: Taxonomy = BDD_OIA,
) -> Fit:
    """Fit the models of all folds, and label the other scenes.

    In further rounds everything is fitted again with what is pseudo-labelled. The model of a fold takes those scenes
    that it is itself sure of, without calibration, which would need the labels of its fold: so a scene's own label
    never reaches the model that judges it.

    Args:
        said: of n labelled scenes.
        labels: float64[n, C], zeros and ones.
        folds: int64[n], from 0 to F - 1.
        other: of m scenes without labels.
        penalty: as of ``fit_logistic``.
        threshold: least probability of a pseudo-label.
        rounds: fits, at least 1.
        taxonomy: of the labels.
    """
    num_actions, num_folds = taxonomy.num_actions, int(folds.max()) + 1
    seen = [folds != fold for fold in range(num_folds)] + [torch.ones_like(folds, dtype=torch.bool)]
    models = [_fit([(said.choose(rows), labels[rows])], penalty, taxonomy) for rows in seen]
    for _ in range(rounds - 1):
        calibration = calibrate(_decide(models, said, folds, taxonomy), labels, num_actions)
        scales = [*[None] * num_folds, calibration]  # the last model alone may see the labels behind it
        sure = [_pseudo_labelled(*pair, other, threshold, taxonomy) for pair in zip(models, scales, strict=True)]
        own = [(said.choose(rows), labels[rows]) for rows in seen]
        models = [_fit(list(parts), penalty, taxonomy) for parts in zip(own, sure, strict=True)]
    decided = _decide(models, said, folds, taxonomy)
    calibration, pseudo = calibrate(decided, labels, num_actions), decide(models[-1].whole, other, taxonomy)
    return Fit(models, calibration, decided, pseudo, probability(pseudo, calibration, num_actions))


def decide(model: Logistic, said: SceneFeatures, taxonomy: Taxonomy = BDD_OIA) -> Tensor:
    """Probabilities float64[S, C]: the mean of both sights, that of the mirrored one with sides exchanged back."""
    seen, mirrored = torch.sigmoid(model.logits(said.mean))
    return (seen + mirrored[:, list(taxonomy.mirrored_labels)]) / 2


def _decide(models: list[Models], said: SceneFeatures, folds: Tensor, taxonomy: Taxonomy) -> Tensor:
    """float64[n, C], each scene by the model of its fold."""
    each = torch.stack([decide(model.whole, said, taxonomy) for model in models[:-1]])
    return each[folds, torch.arange(len(folds))]


def _pseudo_labelled(
    model: Models, calibration: Tensor | None, other: SceneFeatures, threshold: float, taxonomy: Taxonomy
) -> tuple[SceneFeatures, Tensor]:
    """The scenes whose actions a model is sure of, with its labels float64[m', C].

    Args:
        model: fitted before.
        calibration: of its confidence; None takes the confidence itself for the probability.
        other: of m scenes without labels.
        threshold: least probability.
        taxonomy: of the labels.
    """
    guessed, num_actions = decide(model.whole, other, taxonomy), taxonomy.num_actions
    if calibration is None:
        kept = confidence(guessed, num_actions).exp() >= threshold
    else:
        kept = probability(guessed, calibration, num_actions) >= threshold
    return other.choose(kept), (guessed[kept] > 0.5).double()


def _fit(parts: list[tuple[SceneFeatures, Tensor]], penalty: float, taxonomy: Taxonomy) -> Models:
    singles, means, single_labels, mean_labels, counts = [], [], [], [], []
    for said, labels in parts:
        both = torch.stack([labels, labels[:, list(taxonomy.mirrored_labels)]])  # float64[2, S, C]
        num = said.single.shape[2]
        singles.append(said.single.flatten(0, 2))
        means.append(said.mean.flatten(0, 1))
        mean_labels.append(both.flatten(0, 1))
        single_labels.append(mean_labels[-1].repeat_interleave(num, 0))
        counts.append(torch.full((len(singles[-1]),), 1 / num, dtype=torch.float64))
    x = torch.cat(means)
    whole = fit_logistic(x, torch.cat(mean_labels), torch.ones(len(x), dtype=torch.float64), penalty)
    return Models(fit_logistic(torch.cat(singles), torch.cat(single_labels), torch.cat(counts), penalty), whole)
