"""The reader, in place of stage 2: the policy describes scenes, and a linear model decides by the words only.

It trains without gradients: an epoch of ``fit`` describes the training scenes, and at its end the reader is fitted. It
exports a reward (``lvad.rewards.Reader``) and pseudo-labels for the scenes without labels. ``test`` decides on the test
scenes from their descriptions.
"""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lvad.answers.answer_records import answered_scenes, gather_answers, log_floors, parse_answers
from lvad.data.augment import mirror_batch
from lvad.data.pseudo_labels import PseudoLabel, write_pseudo_labels
from lvad.data.recordings import recording_of_id
from lvad.errors import DataError
from lvad.metrics.driving import answers_of, driving_scores
from lvad.metrics.logistic import Logistic
from lvad.objectives.reader_fit import CrossFit, SceneFeatures, cross_fit, folds_of, label_probabilities
from lvad.ops import seeded
from lvad.ranks import gather, log_gathered
from lvad.rewards.clip import CLIP
from lvad.rewards.freeze import freeze_module
from lvad.rewards.reader import LabelledScene, ReaderParts, label_logps, save_reader
from lvad.rewards.text_features import TextFeatures, choose_vocabulary
from lvad.taxonomy import BDD_OIA
from lvad.taxonomy.compatibility import trainer_taxonomy
from lvad.text import mirror_text, render
from lvad.types import UNLABELLED, AnsweredScene, Batch, Policy, Table

NUM_SHOWN = 60
"""Test scenes whose frames are kept for the gallery."""
_SINGLE_OF_OTHERS = 2
"""Number of descriptions of a pseudo-labelled scene that are read one by one in a further round."""


class TextReader(LightningModule):
    """Fits a text-only reader on labelled scenes, and pseudo-labels the others with it.

    It reads ``num_completions`` descriptions of every scene, and as many of the mirrored frames, with left and right
    exchanged back.

    Args:
        policy: describes the scenes; it is not trained.
        num_completions: K, sampled descriptions of each of the two views.
        num_folds: F, the number of folds; fewer if there are fewer recordings.
        penalty: of the squared weights, beside the sum of the scenes' log-likelihoods.
        threshold: least calibrated probability that the actions of a pseudo-label are right.
        rounds: number of fits; each after the first learns from the pseudo-labels of the one before too.
        clip: a CLIP whose text embedding is read beside the words; None for words only.

    Raises:
        ValueError: for fewer than 1 completion or round, 2 folds, or a penalty or threshold out of range.
    """

    next_step = (
        "lvad audit --reward {folder}, then lvad.rewards.Reader with model: {folder} as model.init_args.reward of "
        "configs/rloo.yaml"
    )

    def __init__(
        self,
        policy: Policy,
        num_completions: int = 8,
        num_folds: int = 5,
        penalty: float = 0.2,
        threshold: float = 0.9,
        rounds: int = 1,
        clip: CLIP | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("num_completions", num_completions, 1),
            ("num_folds", num_folds, 2),
            ("rounds", rounds, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        if not penalty > 0 or not 0 < threshold <= 1:
            raise ValueError(f"penalty must be > 0 and threshold in (0, 1], got {penalty} and {threshold}")
        self.policy: Policy = freeze_module(policy, "policy")
        self.num_completions, self.num_folds = num_completions, num_folds
        self.penalty, self.threshold, self.rounds = penalty, threshold, rounds
        self.clip = None if clip is None else freeze_module(clip, "clip")
        self.taxonomy = BDD_OIA  # that of the data, from setup on
        self.described: dict[str, list[str]] = {}
        """2K descriptions of each training scene, by its id."""
        self.labels: dict[str, list[int]] = {}
        """A + R labels of each labelled training scene, by its id."""
        self.recordings: dict[str, str] = {}
        """The recording of each training scene, by its id."""
        self.parts: ReaderParts | None = None
        self.pseudo_labels: dict[str, PseudoLabel] = {}
        self.decider: Logistic | None = None
        """Decides from the mean of the features of all descriptions of a scene; None before the fit."""
        self.answered: list[AnsweredScene] = []
        self.shown: list[Tensor] = []
        self.report: list[Table] = []
        self.automatic_optimization, self.strict_loading = False, False  # a checkpoint holds no weights

    def setup(self, stage: str) -> None:
        """Set the label set of the data."""
        if self._trainer is not None:
            self.taxonomy = trainer_taxonomy(self._trainer)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Describe the scenes, and collect their labels; the reader is fitted at the end of the epoch."""
        self.described |= dict(zip(batch.ids, self._describe(batch), strict=True))
        self.recordings |= dict(zip(batch.ids, batch.recordings, strict=True))
        labels = torch.cat([batch.actions, batch.reasons], 1).tolist()
        self.labels |= {name: row for name, row in zip(batch.ids, labels, strict=True) if UNLABELLED not in row}
        optimizer: Any = self.optimizers()
        optimizer.step()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Describe the scenes and decide on them; keep answers and the first frames for the report."""
        self.answered += self._decide(batch)
        self.shown += [frames.cpu() for frames in batch.frames[: max(0, NUM_SHOWN - len(self.shown))]]

    def predict_step(self, batch: Batch, batch_idx: int) -> list[AnsweredScene]:
        """Return the decisions with the first description of each scene; every call draws the same descriptions."""
        with seeded(0, self.device):
            return self._decide(batch)

    def configure_optimizers(self) -> Any:
        """Make an optimizer that changes nothing: Lightning counts the steps of an optimizer."""
        return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.0)

    def on_train_epoch_end(self) -> None:
        """Fit the reader on the descriptions of all ranks; every rank fits the same."""
        self._gather_descriptions()
        labelled, others = self._sorted_ids()
        texts = [self.described[name] for name in labelled]
        text_features = TextFeatures(choose_vocabulary([[*row, *map(mirror_text, row)] for row in texts]), self.clip)
        features = _scene_features(texts, text_features, self.num_completions)
        of_others = _scene_features([self.described[name] for name in others], text_features, _SINGLE_OF_OTHERS)
        labels = torch.tensor([self.labels[name] for name in labelled], dtype=torch.float64)
        groups = [self.recordings[name] for name in labelled]
        folds = torch.tensor(folds_of(groups, min(self.num_folds, len(set(groups)))))
        options = (self.penalty, self.threshold, self.rounds, self.taxonomy)
        fit = cross_fit(features, labels, folds, of_others, *options)
        self.decider = fit.models[-1].mean
        self.pseudo_labels = _pseudo_labels(others, fit, self.threshold, self.taxonomy.num_actions)
        rows = zip(labelled, folds.tolist(), labels.long().tolist(), strict=True)
        scenes = {name: LabelledScene(fold, row) for name, fold, row in rows}
        self.parts = _reader_parts(fit, text_features.vocabulary, scenes, self.pseudo_labels)
        self._log_fit(fit, features, labels, folds)

    def on_test_epoch_start(self) -> None:
        """Start a new record of answers."""
        self.answered, self.shown = [], []

    def on_test_epoch_end(self) -> None:
        """Log the scores, and the scores of constant answers."""
        self.answered = gather_answers(self.answered)
        answers = answers_of(self.answered, True, self.taxonomy)
        log_gathered(self, {f"test/{name}": value for name, value in driving_scores(answers).items()})
        self.report = log_floors(self, answers)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the descriptions and the fitted reader; the configuration names the models that describe and embed."""
        checkpoint["state_dict"] = {}
        checkpoint["described"], checkpoint["labels"] = self.described, self.labels
        checkpoint["recordings"] = self.recordings
        checkpoint["fitted"] = None
        if self.parts is not None and self.decider is not None:
            scenes = {name: tuple(scene) for name, scene in self.parts.scenes.items()}
            pseudo = {name: tuple(label) for name, label in self.pseudo_labels.items()}
            checkpoint["fitted"] = (self.parts._asdict() | {"scenes": scenes}, tuple(self.decider), pseudo)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the descriptions and the fitted reader."""
        if "fitted" not in checkpoint:
            raise DataError(
                "the checkpoint is not one of TextReader; take the checkpoint of the run that has this configuration"
            )
        self.described, self.labels = checkpoint["described"], checkpoint["labels"]
        of_ids = {name: recording_of_id(name) or name for name in self.described}
        self.recordings = checkpoint.get("recordings", of_ids)  # an earlier lvad kept none
        if checkpoint["fitted"] is not None:
            parts, decider, pseudo = checkpoint["fitted"]
            scenes = {name: LabelledScene(*scene) for name, scene in parts["scenes"].items()}
            self.parts, self.decider = ReaderParts(**(parts | {"scenes": scenes})), Logistic(*decider)
            self.pseudo_labels = {name: PseudoLabel(*label) for name, label in pseudo.items()}

    def export(self, folder: Path) -> None:
        """Write a folder that ``lvad.rewards.Reader`` loads, with ``pseudo_labels.json``."""
        assert self.parts is not None
        save_reader(folder, self.parts, self.clip)
        write_pseudo_labels(folder, self.pseudo_labels)

    def _decide(self, batch: Batch) -> list[AnsweredScene]:
        if self.parts is None or self.decider is None:
            raise DataError("there is no reader to decide: it is fitted at the end of lvad fit")
        texts, taxonomy = self._describe(batch), self.taxonomy
        probabilities = label_probabilities(
            self.decider, _scene_features(texts, TextFeatures(self.parts.vocabulary, self.clip), 1), taxonomy
        )
        actions, reasons = probabilities.split([taxonomy.num_actions, taxonomy.num_reasons], 1)
        rows = zip((actions > 0.5).tolist(), (reasons > 0.5).tolist(), strict=True)
        answers = [render(*row, taxonomy) for row in rows]
        read = parse_answers(answers, with_reasons=True, taxonomy=taxonomy)
        found = answered_scenes(batch, answers, read, [row[0] for row in texts], None)
        rows = zip(found, actions.tolist(), reasons.tolist(), strict=True)
        return [scene._replace(action_probabilities=tuple(a), reason_probabilities=tuple(r)) for scene, a, r in rows]

    @torch.no_grad()
    def _describe(self, batch: Batch) -> list[list[str]]:
        """Draw 2K descriptions of each of B scenes."""
        views = [
            self.policy.generate(self.policy.encode(view), self.num_completions).texts
            for view in (batch, mirror_batch(batch))
        ]
        return [[*seen, *map(mirror_text, other)] for seen, other in zip(*views, strict=True)]

    def _gather_descriptions(self) -> None:
        """Give every rank the descriptions, labels and recordings of all ranks."""
        for described, labels, recordings in gather((self.described, self.labels, self.recordings)):
            self.described |= described
            self.labels |= labels
            self.recordings |= recordings

    def _sorted_ids(self) -> tuple[list[str], list[str]]:
        """Sort the ids of the labelled and of the other scenes, so that the loader's order does not matter."""
        labelled = sorted(self.labels)
        if len({self.recordings[name] for name in labelled}) < 2:
            problem = f"{len(labelled)} labelled training scenes are too few to fit a reader across folds"
            raise DataError(
                f"{problem}; give labelled scenes of 2 recordings at least (data.split.num_scenes, data.split.budget)"
            )
        return labelled, sorted(self.described.keys() - self.labels.keys())

    def _log_fit(self, fit: CrossFit, features: SceneFeatures, labels: Tensor, folds: Tensor) -> None:
        """Log ``reader/...``: scores of the labelled scenes with the models that have not seen them."""
        logits = [model.single.logits(features.single[0]) for model in fit.models[:-1]]
        each = torch.stack(logits)  # float64[F, n, V, C]
        own = each[folds, torch.arange(len(folds))]
        rates = ((labels.sum(0) + 0.5) / (len(labels) + 1)).logit()
        is_right = ((fit.decided > 0.5) == labels.bool())[:, : self.taxonomy.num_actions].all(1)
        assert self.parts is not None
        values = {
            "reader/log_likelihood": label_logps(own, labels[:, None]).mean(),
            "reader/log_likelihood_floor": label_logps(rates, labels).mean(),
            "reader/action_exact_match": is_right.double().mean(),
            "reader/labelled": torch.tensor(float(len(labels))),
            "reader/pseudo_labelled": torch.tensor(float(len(self.parts.pseudo_labels))),
        }
        log_gathered(self, {name: value.float() for name, value in values.items()})
        rank_zero_info("reader: " + ", ".join(f"{name[7:]} {float(value):.4g}" for name, value in values.items()))


def _scene_features(texts: list[list[str]], features: TextFeatures, num_single: int) -> SceneFeatures:
    """Compute the features of S scenes with as many texts each; the first ``num_single`` are kept one by one too."""
    single, mean = [], []
    for row in texts:
        both = torch.stack([features(row), features([mirror_text(text) for text in row])])  # float64[2, V, D]
        single.append(both[:, :num_single])
        mean.append(both.mean(1))
    if not texts:
        size = features([""]).shape[1]
        nothing = torch.zeros(2, 0, size, dtype=torch.float64)
        return SceneFeatures(nothing.unsqueeze(2), nothing)
    return SceneFeatures(torch.stack(single, 1), torch.stack(mean, 1))


def _reader_parts(
    fit: CrossFit, vocabulary: list[str], scenes: dict[str, LabelledScene], pseudo_labels: dict[str, PseudoLabel]
) -> ReaderParts:
    """Collect what a reward of the fitted reader needs."""
    return ReaderParts(
        vocabulary=vocabulary,
        weights=torch.stack([model.single.weights for model in fit.models]),
        offsets=torch.stack([model.single.offsets for model in fit.models]),
        scenes=scenes,
        pseudo_labels={name: [*label.actions, *label.reasons] for name, label in pseudo_labels.items()},
    )


def _pseudo_labels(names: list[str], fit: CrossFit, threshold: float, num_actions: int) -> dict[str, PseudoLabel]:
    rows = zip(names, (fit.pseudo > 0.5).long().tolist(), fit.pseudo_probability.tolist(), strict=True)
    return {
        name: PseudoLabel(tuple(row[:num_actions]), tuple(row[num_actions:]), p)
        for name, row, p in rows
        if p >= threshold
    }
