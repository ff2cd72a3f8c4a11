"""Before stage 1: fine-tunes a CLIP to tell which texts are true of a scene (Algorithm 1, Appendix B of the paper).

Departures from the paper, each a value in the configuration but for the first and the last:
1. Wrong texts are label-safe: never a reason or an action that is true of the scene. The loss is the mean over all
   pairs that could be drawn, which costs no more: every text is embedded anyway.
2. A mirrored picture has mirrored texts: the paper's flip exchanged left and right.
3. A contrastive loss on captions, so that words outside the reasons keep their meaning; on its own (``bce: 0``)
   it is the pre-training of the embedded CLIP.
4. Ranking losses against corrupted texts, so that word salad does not pay, and against the other side's texts.
5. Similarities are cosines and calibrated probabilities, never a softmax over one text.
"""

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lvad.data.augment import Augment
from lvad.data.pairs import TextKind, candidates
from lvad.evaluation.clip_similarity import (
    Similarity,
    fit_match_calibration,
    interpolate,
    interpolated_weights,
    match_probabilities,
)
from lvad.losses.contrastive import matching_bce
from lvad.metrics.matching import Matches, MatchTable, decision_scores, per_scene_scores, ranking_scores
from lvad.modules.stage_base import MeanOverScenes
from lvad.objectives.clip_losses import PairLosses
from lvad.ops import on_host
from lvad.optimizers import make_optimizer
from lvad.ranks import SceneRows, log_gathered, mean_over_ranks
from lvad.rewards.clip import CLIP
from lvad.trained_weights import check_loaded_checkpoint, keep_trained_weights
from lvad.types import Batch, MatchProbabilities, SceneScores, Table

TUNED = 1.0


class CLIPReward(MeanOverScenes):
    """Fine-tunes a CLIP on labelled scenes, so that it can serve as the reward.

    Args:
        clip: the model to tune.
        kind: of the texts it learns to tell apart: reasons, actions, or outputs of one action and one reason.
        losses: the losses with their weights.
        num_negatives: wrong texts per right one in the binary loss; the paper took 1.
        freeze_vision: train only the text encoder and the projections.
        augment: random views of the training scenes; None shows them as they are.
        wise_ft: shares of the tuned weights to try beside 1 at every validation, the rest from the start weights
            (WiSE-FT, Wortsman et al. 2022); the share with the best AUROC is tested and exported.
        optimizer: makes the optimizer from the trained parameters.
        lr_scheduler: makes a schedule in optimizer steps, or ReduceLROnPlateau in validations; None keeps the rate.

    Raises:
        ValueError: for no negative, or a share out of range.
    """

    share: Tensor
    start_calibration: Tensor
    calibration: Tensor
    loss_is = "loss: weighted sum in training, binary loss in validation"
    next_step = "lvad audit --reward {folder}, then give that folder to reward.init_args.model of configs/rloo.yaml"

    def __init__(
        self,
        clip: CLIP,
        kind: TextKind = "reason",
        losses: PairLosses = PairLosses(),
        num_negatives: int = 1,
        freeze_vision: bool = False,
        augment: Augment | None = None,
        wise_ft: list[float] | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        if num_negatives < 1:
            raise ValueError(f"num_negatives must be at least 1, got {num_negatives}")
        if any(not 0 <= share < TUNED for share in wise_ft or []):
            raise ValueError(f"wise_ft must hold shares in [0, 1), got {wise_ft}")
        self.kind: TextKind = kind
        self.clip, self.losses, self.num_negatives = clip, losses, num_negatives
        self.augment, self.shares = augment, (*(wise_ft or []), TUNED)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        if freeze_vision:
            clip.clip.visual.requires_grad_(False)
            clip.clip.visual.proj.requires_grad_(True)
        self.tables = [MatchTable() for _ in self.shares]  # the whole tuned weights' last
        self.recall_at_1 = SceneRows[bool]()
        self.similarity = Similarity()
        # What validation found, kept in the checkpoint: the share of the tuned weights, and slope and offset of
        # P(match) for the start and for the tuned weights.
        self.register_buffer("share", torch.tensor(TUNED))
        self.register_buffer("start_calibration", torch.tensor([clip.logit_scale.item(), 0.0]))
        self.register_buffer("calibration", torch.tensor([clip.logit_scale.item(), 0.0]))
        self.start: dict[str, Tensor] = {}
        self.match_probabilities: MatchProbabilities | None = None
        self.scored: list[SceneScores] = []
        self.report: list[Table] = []
        self.strict_loading = False  # a checkpoint holds the trained weights only (``lvad.trained_weights``)

    def setup(self, stage: str) -> None:
        """Copy the start weights, before training or a checkpoint replaces them."""
        if not self.start:
            self.start = {name: p.detach().clone() for name, p in self.clip.named_parameters() if p.requires_grad}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Embed the frames and compare them with right and wrong texts."""
        batch = batch if self.augment is None else self.augment(batch)
        images = self.clip.embed_frames(batch.frames)
        loss = self.losses.loss(self.clip, images, batch, self.kind, self.num_negatives)
        logged = mean_over_ranks(on_host({"train/loss": loss}), self.device)
        self.log_dict(logged, prog_bar=True, batch_size=len(batch.ids))
        return self.scaled_loss(loss, len(batch.ids))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Compare every text of the kind with every scene, and every caption with the batch's scenes."""
        for share, table in zip(self.shares, self.tables, strict=True):
            with interpolated_weights(self.clip, self.start, share):
                images, _ = self._match(table, batch)
        if all(batch.captions):
            texts = self.clip.embed_texts([captions[0] for captions in batch.captions])
            found = (images @ texts.T).argmax(1) == torch.arange(len(images), device=images.device)
            self.recall_at_1.add(batch.ids, found.tolist())

    def on_test_start(self) -> None:
        """Take the weights that validation chose."""
        self.scored = []
        self._blend_for_good()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Compare as in validation, and all kinds of texts before and after tuning (Table 1 of the paper)."""
        _, matches = self._match(self.tables[-1], batch)
        self.scored += scene_scores(batch.ids, matches)
        self.similarity.update("after", self.clip, batch)
        with interpolated_weights(self.clip, self.start, 0.0):
            self.similarity.update("before", self.clip, batch)

    def configure_optimizers(self) -> Any:
        """Make the optimizer over the trained parameters, with its schedule."""
        return make_optimizer(self, self.optimizer, self.lr_scheduler)

    def on_validation_epoch_end(self) -> None:
        """Choose the share of the tuned weights, fit the calibration, and log the scores."""
        found = [_matches(table) for table in self.tables]
        scores = [ranking_scores(matches) for matches in found]
        best = max(range(len(scores)), key=lambda i: (scores[i]["auroc"].item(), i))
        fitted = fit_match_calibration(found[best])
        if self.trainer.sanity_checking:
            self.start_calibration.copy_(fitted)
        self.calibration.copy_(fitted)
        self.share.fill_(self.shares[best])
        self._log_scores("val", found[best])
        if len(self.shares) > 1:
            log_gathered(self, {"val/wise_ft_share": self.share})
        if recalled := self.recall_at_1.gathered():
            log_gathered(self, {"val/caption_recall_at_1": torch.tensor(recalled).float().mean()})
        for metric in (*self.tables, self.recall_at_1):
            metric.reset()

    def on_test_epoch_end(self) -> None:
        """Log the scores and make Table 1."""
        self._log_scores("test", _matches(self.tables[-1]))
        self.report = [self.similarity.table(self.start_calibration, self.calibration)]
        self.tables[-1].reset()
        self.similarity.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only the trained weights and what validation has fitted."""
        keep_trained_weights(checkpoint, self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the weights are those of this configuration."""
        check_loaded_checkpoint(self, checkpoint)

    def export(self, folder: Path) -> None:
        """Write the tuned CLIP as a folder that plain open_clip loads."""
        self._blend_for_good()
        self.clip.save_pretrained(folder)

    def _match(self, table: MatchTable, batch: Batch) -> tuple[Tensor, Matches]:
        found = candidates(self.kind, batch)
        images = self.clip.embed_frames(batch.frames)
        matches = Matches(images @ self.clip.embed_texts(list(found.texts)).T, found.is_true, found.is_false)
        table.update(batch.ids, *matches)
        return images, matches

    def _log_scores(self, stage: str, matches: Matches) -> None:
        loss = matching_bce(*matches, self.clip.logit_scale)
        self.match_probabilities = match_probabilities(matches, self.calibration)
        values = {**ranking_scores(matches), **decision_scores(*self.match_probabilities), "loss": loss}
        log_gathered(self, {f"{stage}/{name}": value for name, value in values.items()})

    def _blend_for_good(self) -> None:
        with torch.no_grad():
            for name, parameter in self.clip.named_parameters():
                if name in self.start:
                    parameter.copy_(interpolate(self.start[name], parameter, self.share.item()))
        self.share.fill_(TUNED)


def scene_scores(ids: list[str], matches: Matches) -> list[SceneScores]:
    """Score each scene's right texts against its wrong ones; scenes without either are left out."""
    each = {name: values.tolist() for name, values in per_scene_scores(matches).items()}
    rows = [{name: (values[i], 1.0) for name, values in each.items()} for i in range(len(ids))]
    is_known = [not any(math.isnan(part) for part, _ in row.values()) for row in rows]
    return [SceneScores(name, row) for name, row, known in zip(ids, rows, is_known, strict=True) if known]


def _matches(table: MatchTable) -> Matches:
    matches = table.compute()
    assert matches is not None  # without validation scenes there is no loader, and this hook is not called
    return matches
