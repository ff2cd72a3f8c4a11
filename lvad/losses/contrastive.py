"""Losses of the image-text reward model."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def info_nce(
    image: Float[Tensor, "B D"], text: Float[Tensor, "B D"], logit_scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE over the batch: row i of ``image`` belongs to row i of ``text``.

    Args:
        image: unit vectors.
        text: unit vectors.
        logit_scale: inverse temperature, already exponentiated.

    Returns:
        Mean of image-to-text and text-to-image cross-entropy in nats; ln B at chance.

    Source:
        Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", Fig. 3.
    """
    logits = logit_scale * image @ text.T
    targets = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def matching_bce(
    cosines: Float[Tensor, " N"], is_match: Bool[Tensor, " N"], logit_scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Binary cross-entropy on scaled cosines: does this text fit this image?

    Args:
        cosines: image-text cosines.
        is_match: True for a positive pair.
        logit_scale: inverse temperature, already exponentiated.

    Source:
        Appendix B.3 of the paper.
    """
    return F.binary_cross_entropy_with_logits(logit_scale * cosines, is_match.to(cosines.dtype))
