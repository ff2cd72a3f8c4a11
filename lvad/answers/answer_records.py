"""Records of second-stage answers: parsed, scored, and compared with constant answers."""

from collections.abc import Sequence
from typing import Final

import torch
from lightning import LightningModule

from lvad.answers.answer_probabilities import AnswerProbabilities
from lvad.metrics.driving import Answers, bootstrap_scores, driving_scores
from lvad.metrics.floors import Labels, floor_answers
from lvad.ranks import gather, log_gathered
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.text import Answer, Flaw, parse
from lvad.types import UNLABELLED, AnsweredScene, Batch, Scene, Table

SHOWN_SCORES: Final = ("macro_f1", "micro_f1", "f1_all", "exact_match", "bit_accuracy")
"""Scores of actions and of reasons in the table of constant answers (floors)."""


def parse_answers(texts: Sequence[str], with_reasons: bool, taxonomy: Taxonomy = BDD_OIA) -> list[Answer]:
    """Parse B answers.

    Args:
        texts: as generated.
        with_reasons: False if the stage answers with actions only, where a missing reason is no flaw.
        taxonomy: what the labels are called.
    """
    answers = [parse(text, taxonomy) for text in texts]
    return [
        answer._replace(problems=tuple(p for p in answer.problems if with_reasons or p.flaw is not Flaw.NO_REASON))
        for answer in answers
    ]


def answered_scenes(
    batch: Batch,
    texts: Sequence[str],
    answers: Sequence[Answer],
    descriptions: Sequence[str],
    probabilities: AnswerProbabilities | None,
) -> list[AnsweredScene]:
    """Put B answers on record.

    Args:
        batch: the scenes.
        texts: as generated.
        answers: the parsed texts.
        descriptions: those in the prompt; empty texts without one.
        probabilities: None where they were not computed.
    """
    labels = batch.actions.tolist(), batch.reasons.tolist()
    of_actions = [()] * len(texts) if probabilities is None else probabilities.actions.clamp(0, 1).tolist()
    of_reasons = (
        [()] * len(texts) if probabilities is None or probabilities.reasons is None else probabilities.reasons.tolist()
    )
    rows = zip(batch.ids, texts, answers, descriptions, of_actions, of_reasons, *labels, batch.recordings, strict=True)
    return [
        AnsweredScene(
            id=name,
            description=description,
            text=text,
            actions=answer.actions,
            reasons=answer.reasons,
            is_valid=answer.is_valid,
            action_probabilities=tuple(p_actions),
            reason_probabilities=tuple(p_reasons),
            true_actions=None if UNLABELLED in actions else tuple(actions),
            true_reasons=None if UNLABELLED in reasons else tuple(reasons),
            recording=recording,
        )
        for name, text, answer, description, p_actions, p_reasons, actions, reasons, recording in rows
    ]


def training_labels(scenes: Sequence[Scene], with_reasons: bool, taxonomy: Taxonomy = BDD_OIA) -> Labels | None:
    """Collect the labels that constant answers are learnt from, without pseudo-labels; None without any."""
    labelled = [s for s in scenes if s.actions is not None and not s.is_pseudo]
    known = [s for s in labelled if s.reasons is not None or not with_reasons]
    if not known:
        return None
    reasons = torch.tensor([s.reasons for s in known]) if with_reasons else None
    return Labels(torch.tensor([s.actions for s in known]), reasons, taxonomy)


def floors(answers: Answers, training: Labels) -> dict[str, Answers]:
    """Make constant answers to the scenes of ``answers``."""
    return floor_answers(Labels(answers.true_actions, answers.true_reasons, answers.taxonomy), training)


def floors_table(answers: Answers, constant: dict[str, Answers], is_oracle: bool = False) -> Table:
    """Make a table of the model's scores with 95 % intervals beside those of constant answers, in percent.

    Args:
        answers: the model's.
        constant: as returned by ``floors``.
        is_oracle: whether the prompts held true descriptions, which the title says.
    """
    kinds = ("action", "reason") if answers.reasons is not None else ("action",)
    names = [f"{kind}_{score}" for kind in kinds for score in SHOWN_SCORES]
    own = bootstrap_scores(answers)
    others = {name.replace("_", " "): driving_scores(other) for name, other in constant.items()}
    rows = []
    for name in names:
        mean, low, high = (f"{100 * value:.1f}" for value in own[name])
        rows.append((name, f"{mean} ({low} to {high})", *(f"{100 * o[name].item():.1f}" for o in others.values())))
    title = f"Scores on {len(answers.actions)} test scenes and what constant answers reach, %"
    title += ", behind true descriptions made of labels (oracle)" * is_oracle
    return Table(title, ("score", "model (95 % interval)", *others), tuple(rows))


def log_floors(module: LightningModule, answers: Answers, is_oracle: bool = False) -> list[Table]:
    """Log ``test/<floor>/<score>`` of constant answers, learnt from the labels that the module is trained on.

    Args:
        module: tested beside its data module.
        answers: the module's.
        is_oracle: whether the prompts held true descriptions.

    Returns:
        The table of floors; nothing without training labels.
    """
    training = training_labels(training_scenes(module), answers.reasons is not None, answers.taxonomy)
    if training is None:
        return []
    constant = floors(answers, training)
    for name, floor in constant.items():
        log_gathered(module, {f"test/{name}/{score}": value for score, value in driving_scores(floor).items()})
    return [floors_table(answers, constant, is_oracle)]


def training_scenes(module: LightningModule) -> list[Scene]:
    """Return the training scenes of the module's data module; none without one."""
    return getattr(getattr(module.trainer, "datamodule", None), "scenes", {}).get("train", [])


def gather_answers(answered: list[AnsweredScene]) -> list[AnsweredScene]:
    """Gather the answers of every rank, rank 0's first; a scene that a loader repeats counts once."""
    return list({scene.id: scene for part in gather(answered) for scene in part}.values())
