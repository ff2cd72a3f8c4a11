"""Pseudo-labels: confident answers of a trained stage-2 model on unlabelled scenes, for a later fit (self-training)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lvad.answers.answer_probabilities import sets_of
from lvad.answers.decision import DecodedAnswers, record_answers
from lvad.data.collate import SceneDataset
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.loaders import evaluation_loader
from lvad.data.pseudo_labels import PseudoLabel, write_pseudo_labels
from lvad.metrics.calibration import fit_platt
from lvad.trainer_queries import data_module_of
from lvad.types import AnsweredScene, Batch, Scene


class AnswerWithProbability(NamedTuple):
    """An answer with the probability of its set of actions."""

    scene: AnsweredScene
    probability: float


@dataclass(frozen=True)
class PseudoLabels:
    """Pseudo-labels the training scenes that the budget, or ``num_scenes.train``, leaves out, if it is confident.

    The probability is that of the set of actions; the reasons are kept as answered after it. If there are labelled
    validation scenes with right and with wrong answers, the probability is calibrated on them (Platt 1999); they cost
    labels even if they serve nothing else. Without them the probability is taken as it is.

    Args:
        threshold: least probability of a set of actions that is kept.

    Raises:
        ValueError: for a threshold outside [0, 1].

    Source:
        Lee 2013, "Pseudo-Label"; the threshold as in Sohn et al. 2020 (arXiv:2001.07685).
    """

    threshold: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold}")

    @torch.no_grad()
    def write(
        self,
        folder: Path,
        module: LightningModule,
        decide: Callable[[Batch], tuple[DecodedAnswers, list[str]]],
        with_reasons: bool,
    ) -> Path:
        """Label the pool, write the file beside the exported model, and return its path.

        Args:
            folder: of the export.
            module: whose device computes; its data holds the pool and the validation scenes.
            decide: answers a batch with probabilities; returns the descriptions too.
            with_reasons: whether answers name reasons.
        """
        data, was_training = data_module_of(module.trainer), module.training
        module.eval()
        of_validation, of_pool = (
            [
                one
                for batch in _batches(module, data, scenes)
                for one in answers_with_probability(batch, *decide(batch), with_reasons)
            ]
            for scenes in (data.scenes["val"], data.pool)
        )
        module.train(was_training)
        platt = calibration_on(of_validation)
        kept = confident_labels(of_pool, platt, self.threshold)
        how = "as they are: no validation scenes to calibrate them on" if platt is None else "calibrated on validation"
        rank_zero_info(f"pseudo-labels: {len(kept)} of {len(of_pool)} scenes; probabilities {how}")
        return write_pseudo_labels(folder, kept)


def answers_with_probability(
    batch: Batch, decoded: DecodedAnswers, descriptions: Sequence[str], with_reasons: bool
) -> list[AnswerWithProbability]:
    """Put B decisions on record with the probability of each answered set of actions."""
    assert decoded.probabilities is not None
    answered = record_answers(batch, decoded, descriptions, with_reasons)
    actions = torch.tensor([scene.actions for scene in answered])
    found = set_probability(decoded.probabilities.action_sets, actions)
    return [AnswerWithProbability(*row) for row in zip(answered, found.tolist(), strict=True)]


def set_probability(action_sets: Tensor, actions: Tensor) -> Tensor:
    """Select the probability float[B] of each answered set int[B, A] from log-probabilities float[B, 2^A]."""
    is_answered = (sets_of(action_sets) == actions.to(action_sets.device).unsqueeze(1)).all(-1)
    return action_sets.exp()[is_answered]


def calibration_on(answers: Sequence[AnswerWithProbability]) -> Tensor | None:
    """Fit slope and offset, float64[2], of P(actions are right) = sigmoid(a logit(probability) + b).

    None unless there are both right and wrong answers: else nothing can be fitted.
    """
    known = [
        (one.probability, one.scene.true_actions == one.scene.actions) for one in answers if one.scene.true_actions
    ]
    if len({is_right for _, is_right in known}) < 2:
        return None
    probabilities, is_right = zip(*known, strict=True)
    return fit_platt(_logit(probabilities), torch.tensor(is_right))


def confident_labels(
    answers: Sequence[AnswerWithProbability], platt: Tensor | None, threshold: float
) -> dict[str, PseudoLabel]:
    """Keep the valid answers whose calibrated probability is at least the threshold.

    Args:
        answers: of the scenes, with their probabilities.
        platt: slope and offset, as returned by ``calibration_on``; None takes the probabilities as they are.
        threshold: in [0, 1].
    """
    raw = torch.tensor([one.probability for one in answers], dtype=torch.float64)
    found = raw if platt is None else (platt[0] * _logit(raw.tolist()) + platt[1]).sigmoid()
    return {
        one.scene.id: PseudoLabel(one.scene.actions, one.scene.reasons, round(probability, 6))
        for one, probability in zip(answers, found.tolist(), strict=True)
        if one.scene.is_valid and probability >= threshold
    }


def _logit(probabilities: Sequence[float]) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).clamp(1e-6, 1 - 1e-6).logit()


def _batches(module: LightningModule, data: BDDOIADataModule, scenes: Sequence[Scene]) -> Iterator[Batch]:
    if not scenes:
        return
    items = SceneDataset(scenes, data.source.num_frames, data.source.image_size_px)
    for batch in evaluation_loader(items, data.eval_batch_size, 0, {"num_replicas": 1, "rank": 0}, data.taxonomy):
        yield module.transfer_batch_to_device(batch, module.device, 0)
