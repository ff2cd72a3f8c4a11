"""Stage 1, reward: a CLIP that tells which reason is true of a scene (Algorithm 1, Appendix B of the paper).

Departures from the paper:
1. Negatives are label-safe: never a reason that is true of the scene.
2. A contrastive loss on captions can be mixed in, so that words outside the 21 reasons keep their meaning. On
   its own (``bce_weight: 0``) it is the pre-training of the embedded CLIP.
3. No horizontal flip: it would exchange left and right.
"""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAUROC

from lvad.data.pairs import draw_negatives, draw_positives
from lvad.losses.contrastive import info_nce, matching_bce
from lvad.modules.common import keep_trained_weights, make_optimizer
from lvad.rewards.clip import CLIP
from lvad.taxonomy import REASON_TEXTS
from lvad.types import UNLABELLED, Batch


class CLIPReward(LightningModule):
    """Tunes a CLIP on labelled scenes.

    Args:
        clip: the model to tune.
        bce_weight: weight of the binary loss on (scene, reason) pairs.
        contrastive_weight: weight of the contrastive loss on (scene, caption) pairs.
        num_negatives: wrong reasons per right one; the paper took 1.
        freeze_vision: train the text tower and the projections alone.
        optimizer: makes the optimizer from the trained parameters.
        lr_scheduler: makes a schedule in optimizer steps; None keeps the rate constant.

    Raises:
        ValueError: for negative weights, or two that are zero.
    """

    next_step = "give the folder model/ of this run to reward.init_args.model of configs/rloo.yaml"

    def __init__(
        self,
        clip: CLIP,
        bce_weight: float = 1.0,
        contrastive_weight: float = 0.0,
        num_negatives: int = 1,
        freeze_vision: bool = False,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        if min(bce_weight, contrastive_weight) < 0 or bce_weight + contrastive_weight == 0:
            raise ValueError(f"bce_weight {bce_weight}, contrastive_weight {contrastive_weight}: one must be > 0")
        self.clip = clip
        self.bce_weight, self.contrastive_weight = bce_weight, contrastive_weight
        self.num_negatives = num_negatives
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        if freeze_vision:
            clip.clip.visual.requires_grad_(False)
            clip.clip.visual.proj.requires_grad_(True)
        self.auroc, self.loss_mean = BinaryAUROC(), MeanMetric()
        self.right, self.wrong, self.recall_at_1 = MeanMetric(), MeanMetric(), MeanMetric()
        self.strict_loading = False

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Pairs in, loss out."""
        images = self.clip.embed_frames(batch.frames)
        loss = images.new_zeros(())
        if self.bce_weight > 0:
            loss = loss + self.bce_weight * self._matching_loss(images, batch)
        if self.contrastive_weight > 0:
            loss = loss + self.contrastive_weight * self._caption_loss(images, batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.ids))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Every reason against every scene; every caption against the batch's scenes."""
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As in validation."""
        self._evaluate(batch)

    def configure_optimizers(self) -> Any:
        """The optimizer over what is trained, with its schedule per step."""
        return make_optimizer(self, self.optimizer, self.lr_scheduler)

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self.log_dict(self._scores("val"))

    def on_test_epoch_end(self) -> None:
        """Log the scores."""
        self.log_dict(self._scores("test"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained weights alone."""
        keep_trained_weights(checkpoint, self)

    def export(self, folder: Path) -> None:
        """Write the tuned CLIP as a folder that plain open_clip loads."""
        self.clip.save_pretrained(folder)

    def _matching_loss(self, images: Tensor, batch: Batch) -> Tensor:
        if (batch.reasons == UNLABELLED).any():
            unlabelled = [i for i, row in zip(batch.ids, batch.reasons, strict=True) if (row == UNLABELLED).any()]
            raise ValueError(f"scenes without reasons in the training set: {unlabelled[:5]}; set data.unlabelled false")
        rows, right = draw_positives(batch.reasons.bool())
        if not len(rows):
            return images.sum() * 0.0
        wrong = draw_negatives(batch.reasons[rows].bool(), self.num_negatives)
        texts = self.clip.embed_texts(list(REASON_TEXTS))[torch.cat([right[:, None], wrong], 1)]
        cosines = torch.einsum("sd,snd->sn", images[rows], texts)
        is_match = torch.zeros_like(cosines, dtype=torch.bool)
        is_match[:, 0] = True
        return matching_bce(cosines.flatten(), is_match.flatten(), self.clip.logit_scale)

    def _caption_loss(self, images: Tensor, batch: Batch) -> Tensor:
        texts = []
        for name, captions in zip(batch.ids, batch.captions, strict=True):
            if not captions:
                raise ValueError(f"scene {name} has no caption; set contrastive_weight to 0")
            texts.append(captions[int(torch.randint(len(captions), ()))])
        return info_nce(images, self.clip.embed_texts(texts), self.clip.logit_scale)

    def _evaluate(self, batch: Batch) -> None:
        images = self.clip.embed_frames(batch.frames)
        cosines = images @ self.clip.embed_texts(list(REASON_TEXTS)).T
        is_true = batch.reasons == 1
        self.auroc.update(cosines.flatten(), is_true.flatten().long())
        self.right.update(cosines[is_true])
        self.wrong.update(cosines[~is_true])
        self.loss_mean.update(matching_bce(cosines.flatten(), is_true.flatten(), self.clip.logit_scale))
        if all(batch.captions):
            texts = self.clip.embed_texts([captions[0] for captions in batch.captions])
            found = (images @ texts.T).argmax(1) == torch.arange(len(images), device=images.device)
            self.recall_at_1.update(found.float())

    def _scores(self, stage: str) -> dict[str, Tensor]:
        values = {
            "auroc": self.auroc.compute(),
            "loss": self.loss_mean.compute(),
            "cosine_right": self.right.compute(),
            "cosine_wrong": self.wrong.compute(),
        }
        if self.recall_at_1.update_called:
            values["caption_recall_at_1"] = self.recall_at_1.compute()
        for metric in (self.auroc, self.loss_mean, self.right, self.wrong, self.recall_at_1):
            metric.reset()
        return {f"{stage}/{name}": value for name, value in values.items()}
