"""Stage 2: supervised fine-tuning on answers (Algorithm 3 of the paper), or on the scenes' own texts.

Departures from the paper:
1. What is trained never writes the descriptions: they come from the weights that stage 2 started from. In a prototype
   the describer was gone after 24 labels.
2. Training stops at nothing but the answer's own tokens: the loss does not see image, prompt, description or padding.
"""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lvad.answers.answer_records import gather_answers, log_floors, training_labels, training_scenes
from lvad.answers.decision import DecodedAnswers, Voting, decide, questions, record_answers, views_of, vote
from lvad.answers.describer import Describer, Description
from lvad.answers.pseudo_labelling import PseudoLabels
from lvad.answers.target_texts import Target, label_texts, mean_tokens, target_texts
from lvad.data.augment import Augment
from lvad.evaluation.answer_judge import judge_answers
from lvad.fit_state import fit_progress
from lvad.metrics.caption_scores import CaptionScore
from lvad.metrics.driving import answers_of, driving_scores
from lvad.metrics.judge_scores import JudgeScore
from lvad.metrics.likelihood import TextLoss
from lvad.modules.common import Shardable, check_checkpoint_of, keep_trained_weights, make_optimizer
from lvad.modules.sft_checks import check_law, check_pool, check_target
from lvad.objectives.fixmatch import FixMatch
from lvad.objectives.text_objectives import CrossEntropy, Objective, SupervisedBatch, log_supervised_share
from lvad.ops import action_weights, on_host, seeded
from lvad.policy.grammar import AnswerGrammar
from lvad.policy.hf import HFPolicy
from lvad.ranks import log_gathered, mean_over_ranks
from lvad.rewards.freeze import freeze_module
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.taxonomy.compatibility import trainer_taxonomy
from lvad.types import AnsweredScene, Batch, Prediction, Prefix, Reward, Table

NUM_SHOWN = 60
"""Test scenes whose frames are kept for the gallery."""
ANSWER = "answer"
"""Folder of stage 2's weights beside those of stage 1."""


class ActionSFT(Shardable):
    """Learns answers from labelled scenes, by themselves or behind stage 1's own description.

    Args:
        policy: the vision-language model to train; its sampling must leave the model's own law (temperature 1, no
            truncation), since that is the likelihood.
        target: ``action`` ("Action: stop."), ``answer`` ("Action: stop. Reason: ...", the baseline of section
            5.3), or ``caption`` (the scene's own text, whether it has labels or not, as the answer to
            ``policy.prompts.describe``; no actions are answered then, and no F1s scored).
        describe: put what the policy's start (stage 1) says of the scene before the question; None asks about the
            frames alone (the baseline).
        constrain: decode answers over their grammar, so that every one is valid; False lets the model write freely.
        num_targets: captions drawn per scene and step, all behind one image encoding.
        objective: what is minimised: ``CrossEntropy``, ``ExpectedBLEU`` or ``MinimumRiskBLEU``.
        logit_adjustment: make common actions dearer in the decision, see ``balanced_choice``; 0 leaves the model's
            own.
        voting: average the probabilities of several views before every decision; None asks once.
        augment: random views of the labelled training scenes; None shows them as they are.
        fixmatch: learn from the data's ``pool`` of unlabelled training scenes too, by what the model is sure of itself.
        pseudo_labels: answer that pool once the fit is done, and leave what is sure beside the exported model, for
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
        describe: Description | None = None,
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
        check_law(policy.sampling)
        check_target(target, num_targets, describe, logit_adjustment, voting)
        check_pool(target, describe, fixmatch, pseudo_labels)
        self.policy, self.target, self.num_targets = policy, target, num_targets
        self.describer = Describer(describe)
        self.objective, self.logit_adjustment, self.voting = objective, logit_adjustment, voting
        self.augment, self.fixmatch, self.pseudo_labels = augment, fixmatch, pseudo_labels
        self.judge = None if judge is None else freeze_module(judge, "judge")
        self.constrain = constrain and target != "caption"
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.take_labels(BDD_OIA)
        self.text_loss, self.captions, self.judged = TextLoss(), CaptionScore(), JudgeScore()
        self.scene_weights: dict[str, float] = {}
        self.mean_tokens: float | None = None  # of a training text
        self.answered: list[AnsweredScene] = []
        self.shown: list[Tensor] = []
        self.report: list[Table] = []
        self.strict_loading = False
        if self.describer.is_policy:
            policy.keep_reference()

    def take_labels(self, taxonomy: Taxonomy) -> None:
        """Answer with these labels; before weights are loaded, which hold a number for each action."""
        self.taxonomy = taxonomy
        self.register_buffer("action_shares", torch.full((taxonomy.num_actions,), 0.5, device=self.device))

    def setup(self, stage: str) -> None:
        """Take the labels of the data."""
        if self._trainer is not None and (taxonomy := trainer_taxonomy(self._trainer)) != self.taxonomy:
            self.take_labels(taxonomy)

    @property
    def grammar(self) -> AnswerGrammar | None:
        """Of what may be answered; None where the model writes freely."""
        return AnswerGrammar(self._with_reasons, self.taxonomy) if self.constrain else None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """What the objective asks of the right texts behind each scene's prompt."""
        supervised = self._supervised_batch(batch if self.augment is None else self.augment(batch))
        if self.global_step == 0 and batch_idx == 0:
            log_supervised_share(self, self.policy, supervised)
        loss, values = self.objective.loss(self.policy, supervised)
        if self.fixmatch is not None:
            more = self.fixmatch.beside(self, self.policy, self.grammar, self._with_reasons, self.mean_tokens)
            loss, values = loss + more[0], values | more[1]
        logged = mean_over_ranks(on_host({"train/loss": loss, **values}), self.device)
        self.log("train/loss", logged.pop("train/loss"), prog_bar=True, batch_size=len(batch.ids))
        self.log_dict(logged, batch_size=len(batch.ids))
        return self.for_backward(loss, len(batch.ids))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss, and greedy outputs against the labels."""
        self.answered += self._evaluate(batch, with_probabilities=False)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As in validation, with probabilities; answers and the first frames are kept for the report."""
        self.answered += self._evaluate(batch, with_probabilities=True)
        self.shown += [frames.cpu() for frames in batch.frames[: max(0, NUM_SHOWN - len(self.shown))]]

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Prediction] | list[AnsweredScene]:
        """Greedy descriptions, or answers with all that led to them; draws are the same at every call."""
        with seeded(0, self.device):
            prefix = self._encode(batch)
            if self.target == "caption":
                texts = self.policy.generate(prefix, 1, greedy=True).texts
                return [Prediction(name, row[0], None) for name, row in zip(batch.ids, texts, strict=True)]
            return self._answer(batch, prefix, with_probabilities=True)

    def configure_optimizers(self) -> Any:
        """The optimizer over what is trained, with its schedule per step."""
        return make_optimizer(self, self.optimizer, self.lr_scheduler)

    def on_fit_start(self) -> None:
        """Count the training labels."""
        scenes = training_scenes(self)
        texts = label_texts(self.target, scenes, self.taxonomy)
        self.mean_tokens = mean_tokens(self.policy, texts) if texts else None
        labels = training_labels(scenes, False, self.taxonomy)
        if labels is not None:
            self.action_shares.copy_(labels.actions.float().mean(0))
            labelled = [scene.id for scene in scenes if scene.actions is not None and not scene.is_pseudo]
            self.scene_weights = dict(zip(labelled, action_weights(labels.actions).tolist(), strict=True))

    def on_test_epoch_start(self) -> None:
        """Begin the record of what is answered."""
        self.answered, self.shown = [], []

    def on_validation_epoch_start(self) -> None:
        """Begin anew."""
        self.answered = []

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("val")
        self.answered = []

    def on_test_epoch_end(self) -> None:
        """Log the scores, and those of constant answers."""
        self._log_scores("test")
        if self.target != "caption":
            answers = answers_of(self.answered, self._with_reasons, self.taxonomy)
            self.report = log_floors(self, answers, self.describer.is_oracle)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained weights alone, and the descriptions that were made."""
        keep_trained_weights(checkpoint, self)
        checkpoint["descriptions"] = self.describer.known

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Look the weights over; take the descriptions back: made again in other batches they might differ."""
        check_checkpoint_of(self, checkpoint)
        self.describer.known = checkpoint.get("descriptions", {})

    def export(self, folder: Path) -> None:
        """Write the trained model as a folder that plain transformers loads; behind descriptions, both stages."""
        if self.describer.is_policy:
            self.policy.save_on_start(folder, ANSWER)
        else:
            self.policy.save_pretrained(folder)
        if (sure := self.pseudo_labels) is not None:
            sure.write(folder, self, lambda b: self._decide(b, self._encode(b), True), self._with_reasons)

    def _supervised_batch(self, batch: Batch) -> SupervisedBatch:
        weights = torch.tensor([self.scene_weights.get(name, 1.0) for name in batch.ids], device=self.device)
        texts = target_texts(self.target, batch, self.num_targets)
        return SupervisedBatch(self._encode(batch), texts, weights, self.grammar, self.mean_tokens)

    def _encode(self, batch: Batch) -> Prefix:
        prompts = self.policy.prompts
        if self.target == "caption":
            return self.policy.encode(batch, [prompts.describe] * len(batch.ids))
        said = self.describer.describe(self.policy, batch, self.training)
        progress = fit_progress(self.trainer) if self.training and self.describer.is_scheduled else 1.0
        return self.policy.encode(
            self.describer.hide(batch, self.training, progress), questions(self.policy, said, self.taxonomy)
        )

    def _evaluate(self, batch: Batch, with_probabilities: bool) -> list[AnsweredScene]:
        prefix = self._encode(batch)
        targets = self.policy.targets(target_texts(self.target, batch, self.num_targets))
        self.text_loss.update(batch.ids, self.policy.logprobs(prefix, targets), targets.completion_mask)
        if self.target == "caption":
            said = self.policy.generate(prefix, 1, greedy=True).texts
            self.captions.update(batch.ids, [row[0] for row in said], batch.captions, batch.facts)
            return []
        answered = self._answer(batch, prefix, with_probabilities)
        if with_probabilities and isinstance(self.judge, Reward):
            said = [scene.text for scene in answered]
            judge_answers(self.judged, self.judge, self.policy, batch, said, self._with_reasons)
        return answered

    def _answer(self, batch: Batch, prefix: Prefix, with_probabilities: bool) -> list[AnsweredScene]:
        return record_answers(batch, *self._decide(batch, prefix, with_probabilities), self._with_reasons)

    def _decide(self, batch: Batch, prefix: Prefix, with_probabilities: bool) -> tuple[DecodedAnswers, list[str]]:
        law = {"grammar": self.grammar, "shares": self.action_shares, "logit_adjustment": self.logit_adjustment}
        if self.voting is None:
            said = self.describer.describe(self.policy, batch, is_training=False)
            return decide(
                self.policy, prefix, self._with_reasons, with_probabilities, **law, taxonomy=self.taxonomy
            ), said
        views, said = views_of(self.policy, self.describer, batch, self.voting)
        return vote(self.policy, views, self._with_reasons, **law), said

    @property
    def built_on(self) -> nn.Module:
        """Whose labels count as this stage's: not those of a judge, which teaches nothing."""
        return nn.ModuleList([self.policy, self.describer])

    @property
    def _with_reasons(self) -> bool:
        return self.target == "answer"

    def _log_scores(self, stage: str) -> None:
        """Of the scenes of all ranks, which are put together first."""
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
