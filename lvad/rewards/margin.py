"""The contrastive reward: how much better a sentence fits its own scene than other scenes.

A sentence that fits every street, such as "a road with cars", has a high cosine with all scenes, but a margin of zero.
So a policy can raise the plain cosine by saying the same of all scenes, but not the margin.
"""

import warnings
from typing import Literal

import torch
from torch import nn

from lvad.rewards.clip import CLIPCosine
from lvad.types import Batch, Rollouts, Scores


class CLIPMargin(nn.Module):
    """Cosine of a text with its own scene, minus that of the same text with the other scenes of the batch.

    The other scenes are those of the batch only, so the score depends on the batch, but not on earlier ones. With
    ``mean`` the expected margin does not depend on the batch size; with ``hardest`` it falls as the batch grows.
    A scene without others in its batch (the last batch of a validation, one picture to predict) has a margin of 0, like
    a text that fits all scenes; its completions tie and teach nothing. A warning says so once.

    Args:
        model: as for ``CLIP``.
        pretrained: as for ``CLIP``.
        cache_scenes: as for ``CLIPCosine``.
        against: ``mean`` of the cosines with the B - 1 other scenes, or the ``hardest``, their maximum.

    Raises:
        ValueError: for another ``against``.
    """

    def __init__(
        self,
        model: str = "embedded/clip-reward",
        pretrained: str | None = None,
        cache_scenes: int = 100_000,
        against: Literal["mean", "hardest"] = "mean",
    ) -> None:
        super().__init__()
        if against not in ("mean", "hardest"):
            raise ValueError(f"against must be mean or hardest, got {against!r}")
        self.against = against
        self.cosine = CLIPCosine(model, pretrained, cache_scenes)
        self.eval()

    def train(self, mode: bool = True) -> "CLIPMargin":
        """Stay in evaluation mode: a reward must not change during training."""
        return super().train(False)

    @torch.no_grad()
    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        """Score the completions by their margins, float[B, K] in [-2, 2]; the terms are own cosines and margins."""
        images, texts = self.cosine.embed_scenes(batch), self.cosine.embed_completions(rollouts)
        with torch.autocast(images.device.type, enabled=False):  # 16 bits are too few for a difference of cosines
            cosines = torch.einsum("cd,bkd->bkc", images, texts)  # float[B, K, B]
        is_own = torch.eye(len(images), dtype=torch.bool, device=images.device).unsqueeze(1)  # bool[B, 1, B]
        own = cosines.masked_fill(~is_own, 0.0).sum(-1)
        num_others = len(images) - 1
        if num_others == 0:
            warnings.warn("CLIPMargin gives a lone scene the margin 0: set batch_size >= 2 to train", stacklevel=2)
            others = own
        elif self.against == "mean":
            others = cosines.masked_fill(is_own, 0.0).sum(-1) / num_others
        else:
            others = cosines.masked_fill(is_own, -torch.inf).amax(-1)
        margin = own - others
        return Scores(margin, {"clip": own, "margin": margin})
