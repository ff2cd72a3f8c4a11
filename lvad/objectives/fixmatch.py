"""FixMatch: what the model is confident of in a weakly augmented view is its target in a strongly augmented one.

Departures from Sohn et al. 2020 (arXiv:2001.07685):
1. The label is an answer. Its confidence is the probability of the set of actions among all sets; the reasons are those
   that the model writes after that set.
2. The weak view is the scene itself or, one time in two, its mirror with the sides exchanged back; the strong view is
   cropped, its colours changed, mirrored or not.
3. The unlabelled loss begins once the supervised one has had its share of the steps, and confidences have a
   temperature: two changes of Liu et al. 2025 ("SWIFT", arXiv:2512.10244), whose head starts from a linear probe. Their
   temperature of the loss is left out: it answers the flat probabilities of a contrastive model, and those of a
   language model that has learnt the answers are not flat.
"""

from dataclasses import dataclass

import torch
from lightning import LightningModule
from torch import Tensor

from lvad.answers.answer_probabilities import AnswerProbabilities, action_set_logps, sets_of
from lvad.answers.decision import VotingView, name_reasons, questions
from lvad.data.augment import Augment, mirror_batch
from lvad.data.collate import SceneDataset, collate, scenes_at
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.samplers import shuffled_cycle
from lvad.errors import DataError
from lvad.losses.confidence import confident_choice
from lvad.losses.supervised import token_cross_entropy
from lvad.policy.grammar import AnswerGrammar
from lvad.policy.hf import HFPolicy
from lvad.text import render
from lvad.trainer_queries import data_module_of, fit_progress
from lvad.types import Batch


@dataclass(frozen=True)
class FixMatch:
    """The FixMatch loss on unlabelled scenes: training scenes that the budget, or ``num_scenes.train``, leaves out.

    Args:
        threshold: least probability of the set of actions that becomes a target.
        weight: of the loss beside the supervised one.
        per_labelled: unlabelled scenes in a step for each labelled one.
        begin: share of the fit's steps with the supervised loss only.
        temperature: of the confidence; below 1 it sharpens.
        min_area: least share of the picture that the strong view keeps.
        jitter: strength of the strong view's change of colours.

    Raises:
        ValueError: for a value out of range.
    """

    threshold: float = 0.9
    weight: float = 1.0
    per_labelled: int = 3
    begin: float = 0.3
    temperature: float = 1.0
    min_area: float = 0.6
    jitter: float = 0.4

    def __post_init__(self) -> None:
        if not self.weight > 0 or self.per_labelled < 1 or not 0 <= self.begin < 1:
            raise ValueError(
                f"weight must be > 0, per_labelled at least 1 and begin in [0, 1), got {self.weight}, "
                f"{self.per_labelled} and {self.begin}"
            )
        confident_choice(torch.zeros(1, 1), self.threshold, self.temperature)
        Augment(self.min_area, self.jitter)

    def step_loss(
        self,
        module: LightningModule,
        policy: HFPolicy,
        grammar: AnswerGrammar | None,
        with_reasons: bool,
        mean_tokens: float | None,
    ) -> tuple[Tensor | float, dict[str, Tensor]]:
        """Compute what a training step adds to its supervised loss, and what is logged of it; 0 before ``begin``."""
        trainer = module.trainer
        if fit_progress(trainer) < self.begin:
            return 0.0, {}
        data, step = data_module_of(trainer), trainer.fit_loop.epoch_loop.total_batch_idx
        batch = self.batch_at(data, step, data.batch_size, module.global_rank, trainer.world_size)
        batch = module.transfer_batch_to_device(batch, module.device, 0)
        return self.loss(policy, batch, grammar, with_reasons, mean_tokens)

    def batch_at(self, data: BDDOIADataModule, step: int, num_labelled: int, rank: int, world_size: int) -> Batch:
        """Read the unlabelled scenes of a training batch: each of the pool once before any comes again.

        Args:
            data: whose ``pool`` they come from.
            step: training batches before this one.
            num_labelled: labelled scenes of a full batch.
            rank: of this process.
            world_size: number of processes.

        Raises:
            DataError: without such scenes.
        """
        if not data.pool:
            problem = "no training scenes without labels"
            raise DataError.at(
                data.source.path, "", problem, "set data.split.budget or num_scenes.train below their number"
            )
        count = self.per_labelled * num_labelled
        items = SceneDataset(data.pool, data.source.num_frames, data.source.image_size_px)
        places = shuffled_cycle(len(data.pool), data.seed, (step * world_size + rank) * count, count)
        return collate([items[place] for place in places], data.taxonomy)

    def loss(
        self,
        policy: HFPolicy,
        batch: Batch,
        grammar: AnswerGrammar | None,
        with_reasons: bool,
        mean_tokens: float | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the weighted cross-entropy per token over all unlabelled scenes, float[], and what is logged of it.

        Args:
            policy: the model.
            batch: the unlabelled scenes.
            grammar: of the answers.
            with_reasons: whether answers name reasons.
            mean_tokens: of an answer, over the labelled scenes; None counts those of the batch.
        """
        confident, values = self._pseudo_label(policy, batch, grammar, with_reasons)
        if not confident.ids:
            return torch.zeros((), device=batch.actions.device), {**values, "fixmatch/loss": torch.zeros(())}
        seen = Augment(self.min_area, self.jitter)(confident)
        rows = zip(seen.actions.tolist(), seen.reasons.tolist(), strict=True)
        taxonomy = seen.taxonomy
        right = [[render(actions, reasons if with_reasons else None, taxonomy)] for actions, reasons in rows]
        targets = policy.targets(right)
        prefix = policy.encode(seen, questions(policy, [""] * len(seen.ids), taxonomy))
        logps = policy.logprobs(prefix, targets).flatten(0, 1)
        loss = token_cross_entropy(logps, targets.completion_mask.flatten(0, 1), None, mean_tokens)
        loss = loss * (len(confident.ids) / len(batch.ids))
        return self.weight * loss, {**values, "fixmatch/loss": loss.detach()}

    @torch.no_grad()
    def _pseudo_label(
        self, policy: HFPolicy, batch: Batch, grammar: AnswerGrammar | None, with_reasons: bool
    ) -> tuple[Batch, dict[str, Tensor]]:
        """Keep the scenes whose weak view is confident, labelled by that view; return them and what is logged."""
        is_mirrored = bool(torch.rand(()) < 0.5)
        view = _view(policy, batch, is_mirrored)
        taxonomy = batch.taxonomy
        found = AnswerProbabilities(action_set_logps(policy, policy.encode(view.batch, view.questions), taxonomy), None)
        sets = (found.mirrored(taxonomy) if is_mirrored else found).action_sets
        sure = confident_choice(sets, self.threshold, self.temperature)
        values = {"fixmatch/kept": sure.is_kept.float().mean(), "fixmatch/probability": sure.probability.mean()}
        kept = scenes_at(batch, sure.is_kept.nonzero().flatten().tolist())
        if not kept.ids:
            return kept, values
        actions = sets_of(sets)[sure.choice[sure.is_kept]]
        reasons = kept.reasons
        if with_reasons:
            named = name_reasons(policy, _view(policy, kept, is_mirrored), actions, grammar)
            reasons = named.to(reasons.device, reasons.dtype)
        return kept._replace(actions=actions.to(kept.actions.dtype), reasons=reasons), values


def _view(policy: HFPolicy, batch: Batch, is_mirrored: bool) -> VotingView:
    asked = questions(policy, [""] * len(batch.ids), batch.taxonomy)
    return VotingView(mirror_batch(batch) if is_mirrored else batch, asked, is_mirrored)
