"""Losses of the image-text reward model."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def info_nce(
    image: Float[Tensor, "B D"],
    text: Float[Tensor, "B D"],
    logit_scale: Float[Tensor, ""],
    is_wrong: Bool[Tensor, "B B"] | None = None,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE over the batch: row i of ``image`` belongs to row i of ``text``.

    Args:
        image: unit vectors.
        text: unit vectors.
        logit_scale: inverse temperature, already exponentiated.
        is_wrong: whether text j is wrong for image i; texts that are not wrong take no part, except the own one
            (i = j). None: every other text is wrong.

    Returns:
        Mean of image-to-text and text-to-image cross-entropy in nats; ln B at chance.

    Source:
        Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", Fig. 3.
    """
    logits = logit_scale * image @ text.T
    if is_wrong is not None:
        is_own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(~is_wrong & ~is_own, -torch.inf)
    targets = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def matching_bce(
    cosines: Float[Tensor, "B C"],
    is_true: Bool[Tensor, "B C"],
    is_false: Bool[Tensor, "B C"],
    logit_scale: Float[Tensor, ""],
    num_negatives: int = 1,
) -> Float[Tensor, ""]:
    """Compute the binary cross-entropy on scaled cosines: does this text fit this image?

    It is the mean over all draws of one true and ``num_negatives`` false texts per scene, of the mean over the
    1 + ``num_negatives`` pairs: what a draw estimates, without its noise.

    Args:
        cosines: of every scene with every text.
        is_true: the texts that are true of a scene.
        is_false: those that are false; a text may be neither and then counts for nothing.
        logit_scale: inverse temperature, already exponentiated.
        num_negatives: wrong texts per right one.

    Returns:
        Mean over the scenes that have a true and a false text; zero without such a scene.

    Source:
        Appendix B.3 of the paper.
    """
    logits = logit_scale * cosines
    right = _row_mean(F.softplus(-logits), is_true)
    wrong = _row_mean(F.softplus(logits), is_false)
    has_both = is_true.any(1) & is_false.any(1)
    each = (right + num_negatives * wrong) / (1 + num_negatives)
    return torch.where(has_both, each, 0.0).sum() / has_both.sum().clamp_min(1)


def _row_mean(values: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen, values, 0.0).sum(1) / chosen.sum(1).clamp_min(1)


def ranking_loss(
    better: Float[Tensor, " N"], worse: Float[Tensor, " N"], logit_scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Average -log P(better wins), P = sigmoid(scale * (better - worse)); ln 2 where they are equal, 0 for no pair.

    Args:
        better: cosines of the texts that should win.
        worse: cosines of their rivals for the same image.
        logit_scale: inverse temperature, already exponentiated.

    Source:
        Bradley and Terry 1952; InfoNCE with a single negative.
    """
    return F.softplus(logit_scale * (worse - better)).sum() / max(1, len(better))
