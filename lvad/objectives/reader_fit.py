"""Fits the reader on descriptions of scenes: across folds, calibrated, with pseudo-labels for the other scenes.

Two regressions are fitted at a time. One reads a single description: it is the reward. The other reads the mean
of the features of all descriptions of a scene: it decides, and its confident decisions become pseudo-labels. Each
example counts a second time with words and labels mirrored.
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
    """Features of the descriptions of S scenes: as they were written, and with left and right exchanged."""

    single: Tensor
    """float64[2, S, V, D], of V single descriptions of each scene."""
    mean: Tensor
    """float64[2, S, D], the mean over all descriptions of each scene."""

    def select(self, rows: Tensor) -> "SceneFeatures":
        """Select scenes by a mask bool[S] or by indices int64[N]."""
        return SceneFeatures(self.single[:, rows], self.mean[:, rows])


class ReaderModels(NamedTuple):
    """The two regressions that are fitted on the same scenes."""

    single: Logistic
    """Reads one description."""
    mean: Logistic
    """Reads the mean of all descriptions of a scene."""


class CrossFit(NamedTuple):
    """The models of all folds, with their decisions on the labelled and on the other scenes."""

    models: list[ReaderModels]
    """F + 1; model f has not seen the labels of fold f, the last one has seen all."""
    calibration: Tensor
    """float64[2], slope and offset of P(the actions are right) in the confidence."""
    decided: Tensor
    """float64[n, C], the probabilities of the labelled scenes, each by the model that has not seen it."""
    pseudo: Tensor
    """float64[m, C], the probabilities of the other scenes."""
    pseudo_probability: Tensor
    """float64[m], the calibrated probability that the actions are right."""


def folds_of(groups: Sequence[str], num_folds: int) -> list[int]:
    """Choose the fold of each scene only by the name of its recording, so that no label can move it.

    Args:
        groups: the recording of each scene; its scenes stay in one fold.
        num_folds: F, at most as many as there are groups.
    """
    ranked = sorted(set(groups), key=lambda name: hashlib.sha256(name.encode()).digest())
    place = {name: i % num_folds for i, name in enumerate(ranked)}
    return [place[name] for name in groups]


def log_confidence(probabilities: Tensor, num_actions: int = BDD_OIA.num_actions) -> Tensor:
    """Log-probability of the most probable actions, float64[S], from float64[S, C] whose first A labels are actions."""
    actions = probabilities[:, :num_actions]
    return torch.maximum(actions, 1 - actions).log().sum(1)


def fit_calibration(probabilities: Tensor, labels: Tensor, num_actions: int = BDD_OIA.num_actions) -> Tensor:
    """Fit slope and offset of P(all actions right) in the confidence, float64[2].

    If all decisions are right, or all wrong, or confident ones are not better, it is one probability for all:
    (right + 1) / (n + 2).

    Args:
        probabilities: float64[n, C].
        labels: float64[n, C], zeros and ones.
        num_actions: A, the number of actions, which are the first labels.
    """
    is_right = ((probabilities > 0.5) == labels.bool())[:, :num_actions].all(1)
    num_right = int(is_right.sum())
    if 0 < num_right < len(is_right):
        fitted = fit_platt(log_confidence(probabilities, num_actions), is_right)
        if fitted[0] > 0:
            return fitted
    rate = torch.tensor((num_right + 1) / (len(is_right) + 2), dtype=torch.float64)
    return torch.stack([torch.zeros_like(rate), rate.logit()])


def probability_right(probabilities: Tensor, calibration: Tensor, num_actions: int = BDD_OIA.num_actions) -> Tensor:
    """The calibrated P(all actions right), float64[S]."""
    return torch.sigmoid(calibration[0] * log_confidence(probabilities, num_actions) + calibration[1])


def cross_fit(
    features: SceneFeatures,
    labels: Tensor,
    folds: Tensor,
    other: SceneFeatures,
    penalty: float = 0.2,
    threshold: float = 0.9,
    rounds: int = 1,
    taxonomy: Taxonomy = BDD_OIA,
) -> CrossFit:
    """Fit the models of all folds, and label the other scenes.

    In further rounds everything is fitted again with pseudo-labels. The model of a fold takes the scenes on which it is
    itself confident, without calibration, which would need the labels of its fold. So a scene's own label never
    reaches the model that judges it.

    Args:
        features: of n labelled scenes.
        labels: float64[n, C], zeros and ones.
        folds: int64[n], from 0 to F - 1.
        other: of m scenes without labels.
        penalty: as for ``fit_logistic``.
        threshold: least probability of a pseudo-label.
        rounds: fits, at least 1.
        taxonomy: of the labels.
    """
    num_actions, num_folds = taxonomy.num_actions, int(folds.max()) + 1
    seen = [folds != fold for fold in range(num_folds)] + [torch.ones_like(folds, dtype=torch.bool)]
    models = [_fit([(features.select(rows), labels[rows])], penalty, taxonomy) for rows in seen]
    for _ in range(rounds - 1):
        calibration = fit_calibration(_out_of_fold(models, features, folds, taxonomy), labels, num_actions)
        scales = [*[None] * num_folds, calibration]  # only the last model may see the labels of all folds
        sure = [_confident_scenes(*pair, other, threshold, taxonomy) for pair in zip(models, scales, strict=True)]
        own = [(features.select(rows), labels[rows]) for rows in seen]
        models = [_fit(list(parts), penalty, taxonomy) for parts in zip(own, sure, strict=True)]
    decided = _out_of_fold(models, features, folds, taxonomy)
    calibration = fit_calibration(decided, labels, num_actions)
    pseudo = label_probabilities(models[-1].mean, other, taxonomy)
    return CrossFit(models, calibration, decided, pseudo, probability_right(pseudo, calibration, num_actions))


def label_probabilities(model: Logistic, features: SceneFeatures, taxonomy: Taxonomy = BDD_OIA) -> Tensor:
    """Probabilities of the labels, float64[S, C]: the mean over the scene and its mirror, exchanged back."""
    seen, mirrored = torch.sigmoid(model.logits(features.mean))
    return (seen + mirrored[:, list(taxonomy.mirrored_labels)]) / 2


def _out_of_fold(models: list[ReaderModels], features: SceneFeatures, folds: Tensor, taxonomy: Taxonomy) -> Tensor:
    """Label probabilities float64[n, C], each scene's by the model that has not seen it."""
    each = torch.stack([label_probabilities(model.mean, features, taxonomy) for model in models[:-1]])
    return each[folds, torch.arange(len(folds))]


def _confident_scenes(
    model: ReaderModels, calibration: Tensor | None, other: SceneFeatures, threshold: float, taxonomy: Taxonomy
) -> tuple[SceneFeatures, Tensor]:
    """Select the scenes whose actions a model is confident of, with its labels float64[m', C].

    Args:
        model: fitted before.
        calibration: of its confidence; None takes the confidence itself for the probability.
        other: of m scenes without labels.
        threshold: least probability.
        taxonomy: of the labels.
    """
    guessed, num_actions = label_probabilities(model.mean, other, taxonomy), taxonomy.num_actions
    if calibration is None:
        kept = log_confidence(guessed, num_actions).exp() >= threshold
    else:
        kept = probability_right(guessed, calibration, num_actions) >= threshold
    return other.select(kept), (guessed[kept] > 0.5).double()


def _fit(parts: list[tuple[SceneFeatures, Tensor]], penalty: float, taxonomy: Taxonomy) -> ReaderModels:
    singles, means, single_labels, mean_labels, counts = [], [], [], [], []
    for features, labels in parts:
        both = torch.stack([labels, labels[:, list(taxonomy.mirrored_labels)]])  # float64[2, S, C]
        num = features.single.shape[2]
        singles.append(features.single.flatten(0, 2))
        means.append(features.mean.flatten(0, 1))
        mean_labels.append(both.flatten(0, 1))
        single_labels.append(mean_labels[-1].repeat_interleave(num, 0))
        counts.append(torch.full((len(singles[-1]),), 1 / num, dtype=torch.float64))
    x = torch.cat(means)
    mean = fit_logistic(x, torch.cat(mean_labels), torch.ones(len(x), dtype=torch.float64), penalty)
    return ReaderModels(fit_logistic(torch.cat(singles), torch.cat(single_labels), torch.cat(counts), penalty), mean)
