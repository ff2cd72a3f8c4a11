"""Stage 2: supervised fine-tuning on answers (Algorithm 3 of the paper); on captions it is pre-training."""

from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lvad.losses.supervised import token_cross_entropy
from lvad.metrics.driving import DrivingScore, answers_of, driving_scores
from lvad.metrics.facts import FactScore
from lvad.modules.answering import action_probabilities, answered_scenes, floors, floors_table, training_labels
from lvad.modules.common import keep_trained_weights, make_optimizer
from lvad.policy.grammar import AnswerGrammar
from lvad.policy.hf import HFPolicy
from lvad.text import render
from lvad.types import UNLABELLED, AnsweredScene, Batch, Policy, Prediction, Prefix, Table

Target = Literal["action", "answer", "caption"]

NUM_SHOWN = 60
"""Test scenes whose frames are kept for the gallery."""


class ActionSFT(LightningModule):
    """Cross-entropy on the target's tokens alone, never on image, prompt or padding.

    Args:
        policy: the vision-language model to train; its sampling must leave the model's own law (temperature 1, no
            truncation), since that is the likelihood.
        target: ``action`` ("Action: stop."), ``answer`` ("Action: stop. Reason: ...", the baseline of section
            5.3), or ``caption`` (a plain description; pre-training).
        describer: the model of stage 1; its greedy description stands before the question. It is never trained, so
            stage 2 cannot spoil the descriptions. None asks about the frames alone (the baseline).
        constrain: decode answers over their grammar, so that every one is valid; False lets the model write freely.
        num_targets: captions drawn per scene and step, all behind one image encoding.
        optimizer: makes the optimizer from the trained parameters.
        lr_scheduler: makes a schedule in optimizer steps; None keeps the rate constant.

    Raises:
        ValueError: for a policy whose sampling changes the likelihood, several targets where there is one, or a
            describer that is the trained policy or no ``nn.Module``.
    """

    next_step = "lvad test"

    def __init__(
        self,
        policy: HFPolicy,
        target: Target = "action",
        describer: Policy | None = None,
        constrain: bool = False,
        num_targets: int = 1,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        law = policy.sampling
        if (law.temperature, law.top_k, law.top_p) != (1.0, 0, 1.0):
            raise ValueError(f"policy.sampling must be temperature 1, top_k 0, top_p 1 for a likelihood, got {law}")
        if num_targets < 1 or (num_targets > 1 and target != "caption"):
            raise ValueError(f"num_targets must be 1 (or more for captions), got {num_targets} for {target!r}")
        self.policy, self.target, self.num_targets = policy, target, num_targets
        if describer is policy or not isinstance(describer, nn.Module | None):
            raise ValueError("describer must be an nn.Module of its own, apart from policy: it is never trained")
        self.describer = describer.requires_grad_(False) if isinstance(describer, nn.Module) else None
        self.descriptions: dict[str, str] = {}
        self.grammar = AnswerGrammar(target == "answer") if constrain and target != "caption" else None
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.loss_mean, self.facts, self.driving = MeanMetric(), FactScore(), DrivingScore()
        self.answered: list[AnsweredScene] = []
        self.shown: list[Tensor] = []
        self.report: list[Table] = []
        self.strict_loading = False

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log-likelihood of the targets behind each scene's prompt."""
        loss = self._loss(batch, self._encode(batch))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.ids))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss, and greedy outputs against the labels."""
        self._evaluate(batch)

    def on_test_epoch_start(self) -> None:
        """Begin the record of what is answered."""
        self.answered, self.shown = [], []

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As in validation; answers and the first frames are kept for the report."""
        self.answered += self._evaluate(batch)
        self.shown += [frames.cpu() for frames in batch.frames[: max(0, NUM_SHOWN - len(self.shown))]]

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:
        """Greedy outputs."""
        texts = self.policy.generate(self._encode(batch), 1, greedy=True, grammar=self.grammar).texts
        said = zip(batch.ids, self._describe(batch), texts, strict=True)
        return [Prediction(name, f"{description} {row[0]}".strip(), None) for name, description, row in said]

    def configure_optimizers(self) -> Any:
        """The optimizer over what is trained, with its schedule per step."""
        return make_optimizer(self, self.optimizer, self.lr_scheduler)

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self.log_dict(self._scores("val"))

    def on_test_epoch_end(self) -> None:
        """Log the scores, and those of constant answers."""
        if self.target != "caption":
            self._log_floors()
        self.log_dict(self._scores("test"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained weights alone."""
        keep_trained_weights(checkpoint, self)

    def export(self, folder: Path) -> None:
        """Write the trained model as a folder that plain transformers loads."""
        self.policy.save_pretrained(folder)

    def _encode(self, batch: Batch) -> Prefix:
        prompts = self.policy.prompts
        if self.target == "caption":
            return self.policy.encode(batch, [prompts.describe] * len(batch.ids))
        queries = [f"{description} {prompts.decide}".strip() for description in self._describe(batch)]
        return self.policy.encode(batch, queries)

    @torch.no_grad()
    def _describe(self, batch: Batch) -> list[str]:
        """B descriptions, each made once and kept; empty without a describer."""
        if self.describer is None:
            return [""] * len(batch.ids)
        if not all(name in self.descriptions for name in batch.ids):
            assert isinstance(self.describer, Policy)
            self.describer.eval()
            rollouts = self.describer.generate(self.describer.encode(batch), 1, greedy=True)
            self.descriptions |= {name: row[0] for name, row in zip(batch.ids, rollouts.texts, strict=True)}
        return [self.descriptions[name] for name in batch.ids]

    def _loss(self, batch: Batch, prefix: Prefix) -> Tensor:
        targets = self.policy.targets(self._texts(batch))
        logps = self.policy.logprobs(prefix, targets)
        return token_cross_entropy(logps.flatten(0, 1), targets.completion_mask.flatten(0, 1))

    def _texts(self, batch: Batch) -> list[list[str]]:
        if self.target == "caption":
            return [self._draw(name, row) for name, row in zip(batch.ids, batch.captions, strict=True)]
        texts = []
        for name, actions, reasons in zip(batch.ids, batch.actions.tolist(), batch.reasons.tolist(), strict=True):
            if UNLABELLED in actions:
                raise ValueError(f"scene {name} has no labels; set data.unlabelled false")
            texts.append([render(actions, reasons if self.target == "answer" else None)])
        return texts

    def _draw(self, name: str, captions: tuple[str, ...]) -> list[str]:
        if not captions:
            raise ValueError(f"scene {name} has no caption to learn; choose target: action or answer")
        order = torch.randperm(max(len(captions), self.num_targets))[: self.num_targets]
        return [captions[i % len(captions)] for i in order.tolist()]

    def _evaluate(self, batch: Batch) -> list[AnsweredScene]:
        prefix = self._encode(batch)
        self.loss_mean.update(self._loss(batch, prefix), weight=len(batch.ids))
        texts = [row[0] for row in self.policy.generate(prefix, 1, greedy=True, grammar=self.grammar).texts]
        if self.target == "caption":
            self.facts.update(texts, batch.facts)
            return []
        chances = action_probabilities(self.policy, prefix)
        answered = answered_scenes(batch, texts, self._describe(batch), chances, self._with_reasons)
        self.driving.update(answers_of(answered, self._with_reasons))
        return answered

    @property
    def _with_reasons(self) -> bool:
        return self.target == "answer"

    def _scores(self, stage: str) -> dict[str, Tensor]:
        values = {"loss": self.loss_mean.compute()}
        if self.target == "caption":
            values |= {f"fact_{name}": value for name, value in self.facts.compute().items()}
        else:
            values |= self.driving.compute()
        for metric in (self.loss_mean, self.driving, self.facts):
            metric.reset()
        return {f"{stage}/{name}": value for name, value in values.items()}

    def _log_floors(self) -> None:
        """``test/<floor>/<score>``, and the table; only where the training scenes' labels are at hand."""
        scenes = getattr(getattr(self.trainer, "datamodule", None), "scenes", {})
        training = training_labels(scenes.get("train", []), self._with_reasons)
        if training is None:
            return
        with self.driving.sync_context():
            answers = self.driving.answers()
        constant = floors(answers, training)
        self.report = [floors_table(answers, constant)]
        for name, said in constant.items():
            self.log_dict({f"test/{name}/{score}": value for score, value in driving_scores(said).items()})
