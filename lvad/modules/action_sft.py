"""Stage 2: supervised fine-tuning on answers (Algorithm 3 of the paper), or on the scenes' captions.

Departures from the paper:
1. The trained weights never write the descriptions, which come from the weights that stage 2 started from. In a
   prototype the model could no longer describe after 24 labels.
2. The loss is on the answer's own tokens only, not on image, prompt, description or padding.
"""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lvad.answers.answer_records import gather_answers, log_floors, training_labels, training_scenes
from lvad.answers.decision import DecodedAnswers, Voting, decode_answers, questions, record_answers, vote, voting_views
from lvad.answers.describer import Describer, DescriptionOptions
from lvad.answers.pseudo_labelling import PseudoLabels
from lvad.answers.target_texts import Target, label_texts, mean_tokens, target_texts
from lvad.data.augment import Augment
from lvad.evaluation.answer_judge import judge_answers
from lvad.metrics.caption_scores import CaptionScore
from lvad.metrics.driving import answers_of, driving_scores
from lvad.metrics.judge_scores import JudgeScore
from lvad.metrics.likelihood import TextLoss
from lvad.modules.stage_base import Shardable
from lvad.objectives.fixmatch import FixMatch
from lvad.objectives.sft_options import check_answer_options, check_sampling, check_unlabelled_options
from lvad.objectives.text_objectives import CrossEntropy, Objective, SupervisedBatch, log_supervised_share
from lvad.ops import action_weights, on_host, seeded
from lvad.optimizers import make_optimizer
from lvad.policy.grammar import AnswerGrammar
from lvad.policy.hf import HFPolicy
from lvad.ranks import log_gathered, mean_over_ranks
from lvad.rewards.freeze import freeze_module
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.taxonomy.compatibility import trainer_taxonomy
from lvad.trained_weights import check_loaded_checkpoint, keep_trained_weights
from lvad.trainer_queries import fit_progress
from lvad.types import AnsweredScene, Batch, Prediction, Prefix, Reward, Table

NUM_SHOWN = 60
"""Test scenes whose frames are kept for the gallery."""
ANSWER = "answer"
"""Folder of stage 2's weights beside those of stage 1."""


class ActionSFT(Shardable):
    """Fine-tunes a policy on the answers of labelled scenes, with or without stage 1's description in the prompt.

    Args:
        policy: the vision-language model to train; its sampling must leave the model's own distribution (temperature
            1, no truncation), which the likelihood is of.
        target: ``action`` ("Action: stop."), ``answer`` ("Action: stop. Reason: ...", the baseline of section
            5.3), or ``caption`` (the scene's own text, whether it has labels or not, as the answer to
            ``policy.prompts.describe``; no actions are answered then, and no F1s scored).
        describe: put the description of the initial policy (stage 1) before the question; None asks about the
            frames only (the baseline).
        constrain: decode answers over their grammar, so that every one is valid; False lets the model write freely.
        num_targets: captions drawn per scene and step, all after one encoded prompt.
        objective: the loss that is minimised: ``CrossEntropy``, ``ExpectedBLEU`` or ``MinimumRiskBLEU``.
        logit_adjustment: penalise common actions in the decision, see ``balanced_choice``; 0 keeps the model's
            own decision.
        voting: average the probabilities of several views before every decision; None asks once.
        augment: random views of the labelled training scenes; None shows them as they are.
        fixmatch: learn from the data's ``pool`` of unlabelled training scenes too, by the model's confident answers.
        pseudo_labels: answer that pool after the fit, and write the confident answers beside the exported model, for
            ``data.split.pseudo_labels`` of a later fit.
        judge: a reward that scores the test answers; the paper's CLIP score and match percentage.
        optimizer: makes the optimizer from the trained parameters.
        lr_scheduler: makes a schedule in optimizer steps; None keeps the rate constant.

    Raises:
        ValueError: for a policy whose sampling changes the likelihood, or several targets, descriptions or an
            adjustment where they mean nothing.
    """

    next_step, loss_is = "lvad test", "loss of the objective (cross-entropy: nats per token)"
    target: Target
    action_shares: Tensor
    """float[A], how often each action is true of the training scenes."""
    taxonomy: Taxonomy  # of the data, from setup on

    def __init__(
        self,
        policy: HFPolicy,
        target: Target = "action",
        describe: DescriptionOptions | None = None,
        constrain: bool = False,
        num_targets: int = 1,
        objective: Objective = CrossEntropy(),
        logit_adjustment: float = 0.0,
        voting: Voting | None = None,
        augment: Augment | None = None,
        fixmatch: FixMatch | None = None,
        pseudo_labels: PseudoLabels | None = None,
        judge: Reward | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        check_sampling(policy.sampling)
        check_answer_options(target, num_targets, describe, logit_adjustment, voting)
        check_unlabelled_options(target, describe, fixmatch, pseudo_labels)
        self.policy, self.target, self.num_targets = policy, target, num_targets
        self.describer = Describer(describe)
        self.objective, self.logit_adjustment, self.voting = objective, logit_adjustment, voting
        self.augment, self.fixmatch, self.pseudo_labels = augment, fixmatch, pseudo_labels
        self.judge = None if judge is None else freeze_module(judge, "judge")
        self.constrain = constrain and target != "caption"
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.set_taxonomy(BDD_OIA)
        self.text_loss, self.captions, self.judged = TextLoss(), CaptionScore(), JudgeScore()
        self.scene_weights: dict[str, float] = {}
        self.mean_tokens: float | None = None  # of a training text
        self.answered: list[AnsweredScene] = []
        self.shown: list[Tensor] = []
        self.report: list[Table] = []
        self.strict_loading = False  # a checkpoint holds the trained weights only (``lvad.trained_weights``)
        if self.describer.is_policy:
            policy.keep_reference()

    def set_taxonomy(self, taxonomy: Taxonomy) -> None:
        """Set the label set of the answers; before weights are loaded, which hold a number for each action."""
        self.taxonomy = taxonomy
        self.register_buffer("action_shares", torch.full((taxonomy.num_actions,), 0.5, device=self.device))

    def setup(self, stage: str) -> None:
        """Set the label set of the data."""
        if self._trainer is not None and (taxonomy := trainer_taxonomy(self._trainer)) != self.taxonomy:
            self.set_taxonomy(taxonomy)

    @property
    def grammar(self) -> AnswerGrammar | None:
        """The grammar of the answers; None if the model writes freely."""
        return AnswerGrammar(self._with_reasons, self.taxonomy) if self.constrain else None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Encode the prompts with the right texts, and take the loss of the objective."""
        batch = batch if self.augment is None else self.augment(batch)
        supervised = self._supervised_batch(batch)
        loss, stats = self._loss(supervised)
        self._log_step(supervised, batch_idx, loss, stats)
        return self.scaled_loss(loss, len(batch.ids))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Take the loss, and compare greedy outputs with the labels."""
        self.answered += self._evaluate(batch, with_probabilities=False)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Evaluate as in validation, with probabilities; keep answers and the first frames for the report."""
        self.answered += self._evaluate(batch, with_probabilities=True)
        self.shown += [frames.cpu() for frames in batch.frames[: max(0, NUM_SHOWN - len(self.shown))]]

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Prediction] | list[AnsweredScene]:
        """Return greedy captions, or answers with their descriptions and probabilities; every call draws the same."""
        with seeded(0, self.device):
            prefix = self._encode(batch)
            if self.target == "caption":
                texts = self.policy.generate(prefix, 1, greedy=True).texts
                return [Prediction(name, row[0], None) for name, row in zip(batch.ids, texts, strict=True)]
            return self._answer(batch, prefix, with_probabilities=True)

    def configure_optimizers(self) -> Any:
        """Make the optimizer over the trained parameters, with its schedule per step."""
        return make_optimizer(self, self.optimizer, self.lr_scheduler)

    def on_fit_start(self) -> None:
        """Count the training labels and tokens, for the weights of scenes and of batches."""
        scenes = training_scenes(self)
        texts = label_texts(self.target, scenes, self.taxonomy)
        self.mean_tokens = mean_tokens(self.policy, texts) if texts else None
        labels = training_labels(scenes, False, self.taxonomy)
        if labels is not None:
            self.action_shares.copy_(labels.actions.float().mean(0))
            labelled = [scene.id for scene in scenes if scene.actions is not None and not scene.is_pseudo]
            self.scene_weights = dict(zip(labelled, action_weights(labels.actions).tolist(), strict=True))

    def on_test_epoch_start(self) -> None:
        """Start a new record of answers."""
        self.answered, self.shown = [], []

    def on_validation_epoch_start(self) -> None:
        """Start a new list of answers."""
        self.answered = []

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("val")
        self.answered = []

    def on_test_epoch_end(self) -> None:
        """Log the scores, and the scores of constant answers."""
        self._log_scores("test")
        if self.target != "caption":
            answers = answers_of(self.answered, self._with_reasons, self.taxonomy)
            self.report = log_floors(self, answers, self.describer.is_oracle)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only the trained weights, and the descriptions that were made."""
        keep_trained_weights(checkpoint, self)
        checkpoint["descriptions"] = self.describer.kept_descriptions()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the weights and restore the descriptions, which might differ if they were made in other batches."""
        check_loaded_checkpoint(self, checkpoint)
        self.describer.restore_descriptions(checkpoint.get("descriptions", {}))

    def export(self, folder: Path) -> None:
        """Write the trained model as a folder that plain transformers loads; with descriptions, both stages."""
        if self.describer.is_policy:
            self.policy.save_on_start(folder, ANSWER)
        else:
            self.policy.save_pretrained(folder)
        if self.pseudo_labels is not None:
            self.pseudo_labels.write(folder, self, lambda b: self._decide(b, self._encode(b), True), self._with_reasons)

    def _loss(self, supervised: SupervisedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Add up the loss of the objective and that of FixMatch, float[], and what is logged of them."""
        loss, stats = self.objective.loss(self.policy, supervised)
        if self.fixmatch is None:
            return loss, stats
        more = self.fixmatch.step_loss(self, self.policy, self.grammar, self._with_reasons, self.mean_tokens)
        return loss + more[0], stats | more[1]

    def _log_step(self, supervised: SupervisedBatch, batch_idx: int, loss: Tensor, stats: dict[str, Tensor]) -> None:
        if self.global_step == 0 and batch_idx == 0:
            log_supervised_share(self, self.policy, supervised)
        num_scenes = len(supervised.texts)
        logged = mean_over_ranks(on_host({"train/loss": loss, **stats}), self.device)
        self.log("train/loss", logged.pop("train/loss"), prog_bar=True, batch_size=num_scenes)
        self.log_dict(logged, batch_size=num_scenes)

    def _supervised_batch(self, batch: Batch) -> SupervisedBatch:
        weights = torch.tensor([self.scene_weights.get(name, 1.0) for name in batch.ids], device=self.device)
        texts = target_texts(self.target, batch, self.num_targets)
        return SupervisedBatch(self._encode(batch), texts, weights, self.grammar, self.mean_tokens)

    def _encode(self, batch: Batch) -> Prefix:
        prompts = self.policy.prompts
        if self.target == "caption":
            return self.policy.encode(batch, [prompts.describe] * len(batch.ids))
        descriptions = self.describer.describe(self.policy, batch, self.training)
        progress = fit_progress(self.trainer) if self.training and self.describer.is_scheduled else 1.0
        return self.policy.encode(
            self.describer.hide(batch, self.training, progress), questions(self.policy, descriptions, self.taxonomy)
        )

    def _evaluate(self, batch: Batch, with_probabilities: bool) -> list[AnsweredScene]:
        prefix = self._encode(batch)
        targets = self.policy.targets(target_texts(self.target, batch, self.num_targets))
        self.text_loss.update(batch.ids, self.policy.logprobs(prefix, targets), targets.completion_mask)
        if self.target == "caption":
            rows = self.policy.generate(prefix, 1, greedy=True).texts
            self.captions.update(batch.ids, [row[0] for row in rows], batch.captions, batch.facts)
            return []
        answered = self._answer(batch, prefix, with_probabilities)
        if with_probabilities and isinstance(self.judge, Reward):
            texts = [scene.text for scene in answered]
            judge_answers(self.judged, self.judge, self.policy, batch, texts, self._with_reasons)
        return answered

    def _answer(self, batch: Batch, prefix: Prefix, with_probabilities: bool) -> list[AnsweredScene]:
        return record_answers(batch, *self._decide(batch, prefix, with_probabilities), self._with_reasons)

    def _decide(self, batch: Batch, prefix: Prefix, with_probabilities: bool) -> tuple[DecodedAnswers, list[str]]:
        options = {"grammar": self.grammar, "shares": self.action_shares, "logit_adjustment": self.logit_adjustment}
        if self.voting is None:
            descriptions = self.describer.describe(self.policy, batch, is_training=False)
            return decode_answers(
                self.policy, prefix, self._with_reasons, with_probabilities, **options, taxonomy=self.taxonomy
            ), descriptions
        views, descriptions = voting_views(self.policy, self.describer, batch, self.voting)
        return vote(self.policy, views, self._with_reasons, **options), descriptions

    @property
    def built_on(self) -> nn.Module:
        """The parts whose training labels count as this stage's: not those of a judge, which teaches nothing."""
        return nn.ModuleList([self.policy, self.describer])

    @property
    def _with_reasons(self) -> bool:
        return self.target == "answer"

    def _log_scores(self, stage: str) -> None:
        """Log the scores over the scenes of all ranks, which are gathered first."""
        values = {"loss": self.text_loss.compute()}
        if self.target == "caption":
            values |= self.captions.compute()
        else:
            self.answered = gather_answers(self.answered)
            values |= driving_scores(answers_of(self.answered, self._with_reasons, self.taxonomy))
            if stage == "test" and isinstance(self.judge, Reward):
                values |= {f"clip_{name}": value for name, value in self.judged.compute().items()}
        for metric in (self.text_loss, self.captions, self.judged):
            metric.reset()
        log_gathered(self, {f"{stage}/{name}": value for name, value in values.items()})
