"""The losses of the CLIP reward: on label texts, other scenes' texts, mirrored and corrupted texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lvad.data.pairs import Candidates, TextKind, candidates, mirrored_candidates, sample_pairs
from lvad.data.text_corruption import CORRUPTIONS, corrupt
from lvad.facts import contradicts
from lvad.losses.contrastive import info_nce, matching_bce, ranking_loss
from lvad.rewards.clip import CLIP
from lvad.text import mirror_text
from lvad.types import Batch


@dataclass(frozen=True)
class PairLosses:
    """The losses of the CLIP reward with their weights; zero switches one off.

    Args:
        bce: binary loss on right and label-safe wrong texts of the same image (Appendix B.3).
        contrastive: InfoNCE against the other texts of the batch: captions where every scene has one, else texts of
            the labels, of which those that are not false of an image take no part.
        mirrored: ranking of every true text that names a side over the same text of the other side, where that is
            false; of a caption too, where the mirrored one contradicts a true reason. The other losses meet such a
            pair so seldom that left and right are hardly learnt.
        corrupted: ranking of the own text over a corrupted one, a weight per corruption: repeat, remove, insert,
            swap, shuffle.

    Raises:
        ValueError: for a negative weight, an unknown corruption, or no positive weight at all.
    """

    bce: float = 1.0
    contrastive: float = 0.0
    mirrored: float = 0.0
    corrupted: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weights = {"bce": self.bce, "contrastive": self.contrastive, "mirrored": self.mirrored, **self.corrupted}
        if unknown := sorted(set(self.corrupted) - set(CORRUPTIONS)):
            raise ValueError(f"losses.corrupted knows {sorted(CORRUPTIONS)}, got {unknown}")
        if min(weights.values()) < 0 or max(weights.values()) == 0:
            raise ValueError(f"losses must be >= 0 and one of them > 0, got {weights}")

    def loss(self, clip: CLIP, images: Tensor, batch: Batch, kind: TextKind, num_negatives: int) -> Tensor:
        """Add up the losses that are switched on, float[].

        Args:
            clip: embeds the texts.
            images: unit vectors float[B, D].
            batch: the scenes.
            kind: of the texts that the labels give.
            num_negatives: wrong texts per right one in the binary loss.
        """
        loss = images.sum() * 0.0
        if self.bce > 0 or self.mirrored > 0:
            found = candidates(kind, batch)
            cosines = images @ clip.embed_texts(list(found.texts)).T
            sides = mirrored_candidates(kind, batch.taxonomy)
            loss = loss + label_loss(cosines, found, sides, clip.logit_scale, self, num_negatives)
        if self.contrastive > 0:
            loss = loss + caption_loss(clip, images, batch, kind, self)
        if self.corrupted:
            loss = loss + corrupted_loss(clip, images, batch, kind, self.corrupted)
        return loss


def own_texts(batch: Batch, kind: TextKind) -> tuple[list[str], Tensor | None]:
    """Draw one right text per scene, and say which texts are wrong for which scene.

    Returns:
        B texts: a random caption each where every scene has captions, else a random true text of the kind; and
        bool[B, B] whether text j is false of scene i, None for captions, which no label checks.
    """
    if all(batch.captions):
        return [captions[int(torch.randint(len(captions), ()))] for captions in batch.captions], None
    found = candidates(kind, batch)
    pairs = sample_pairs(found, 1)
    index = torch.zeros(len(batch.ids), dtype=torch.int64, device=found.is_true.device)
    index[pairs.rows] = pairs.texts[:, 0]
    is_wrong = found.is_false[:, index]
    is_drawn = torch.zeros_like(index, dtype=torch.bool)
    is_drawn[pairs.rows] = True
    return [found.texts[i] for i in index.tolist()], is_wrong & is_drawn & is_drawn[:, None]


def caption_loss(clip: CLIP, images: Tensor, batch: Batch, kind: TextKind, losses: PairLosses) -> Tensor:
    """Compare one right text per scene with the batch's other texts, and with its own mirrored text.

    Args:
        clip: embeds the texts.
        images: unit vectors float[B, D].
        batch: the scenes.
        kind: of the texts that stand in for captions.
        losses: the weights.
    """
    texts, is_wrong = own_texts(batch, kind)
    rows = _sided(texts, batch) if losses.mirrored > 0 else []
    own, other = clip.embed_texts([*texts, *(mirror_text(texts[i]) for i in rows)]).split([len(texts), len(rows)])
    contrast = info_nce(images, own, clip.logit_scale, is_wrong)
    mirrored = ranking_loss((images[rows] * own[rows]).sum(1), (images[rows] * other).sum(1), clip.logit_scale)
    return losses.contrastive * contrast + losses.mirrored * mirrored


def _sided(texts: list[str], batch: Batch) -> list[int]:
    """Return the indices of scenes whose labels contradict the mirrored text."""
    names = batch.taxonomy.reason_texts
    truths = [[text for text, flag in zip(names, row, strict=True) if flag == 1] for row in batch.reasons.tolist()]
    swapped = [mirror_text(text) for text in texts]
    return [i for i, text in enumerate(texts) if swapped[i] != text and contradicts(swapped[i], truths[i])]


def label_loss(
    cosines: Tensor,
    found: Candidates,
    mirrored: Sequence[int],
    scale: Tensor,
    losses: PairLosses,
    num_negatives: int,
) -> Tensor:
    """Compare the label texts with each scene: the binary loss, and the ranking over mirrored texts.

    Args:
        cosines: float[B, C] of every scene with every candidate.
        found: which candidates are true and false.
        mirrored: for each candidate the index of its mirrored text, as returned by ``mirrored_candidates``.
        scale: inverse temperature.
        losses: the weights.
        num_negatives: wrong texts per right one in the binary loss.
    """
    bce = matching_bce(cosines, found.is_true, found.is_false, scale, num_negatives)
    other_side = list(mirrored)
    is_sided = found.is_true & found.is_false[:, other_side]
    sides = ranking_loss(cosines[is_sided], cosines[:, other_side][is_sided], scale)
    return losses.bce * bce + losses.mirrored * sides


def corrupted_loss(clip: CLIP, images: Tensor, batch: Batch, kind: TextKind, weights: dict[str, float]) -> Tensor:
    """Rank each scene's own text over a corrupted one; it is a random caption or a random true text of the kind.

    Each scene draws its corruption in proportion to the weights; the mean over scenes is multiplied by their sum.

    Args:
        clip: embeds the texts.
        images: unit vectors float[B, D].
        batch: the scenes.
        kind: of the texts that the labels give.
        weights: per corruption.
    """
    rows, texts = _texts_to_corrupt(batch, kind)
    # Without any text, embed an empty one with no effect: on several devices every weight must take part in a loss.
    better, worse = clip.embed_texts([*texts, *_corrupted(texts, weights)] or ["", ""]).chunk(2)
    own, better, worse = images[rows], better[: len(rows)], worse[: len(rows)]
    return sum(weights.values()) * ranking_loss((own * better).sum(1), (own * worse).sum(1), clip.logit_scale)


def _corrupted(texts: list[str], weights: dict[str, float]) -> list[str]:
    if not texts:
        return []
    names = list(weights)
    drawn = torch.multinomial(torch.tensor([weights[name] for name in names]), len(texts), replacement=True)
    pool = sorted({word for text in texts for word in text.split()})
    return [corrupt(text, names[i], pool) for text, i in zip(texts, drawn.tolist(), strict=True)]


def _texts_to_corrupt(batch: Batch, kind: TextKind) -> tuple[list[int], list[str]]:
    """Draw a caption or a true text, with even chances, for each scene that has one; return scene indices and texts."""
    found = candidates(kind, batch)
    pairs = sample_pairs(found, 1)
    texts = {row: found.texts[i] for row, i in zip(pairs.rows.tolist(), pairs.texts[:, 0].tolist(), strict=True)}
    takes_caption = torch.rand(len(batch.ids)) < 0.5
    for row, captions in enumerate(batch.captions):
        if captions and (takes_caption[row] or row not in texts):
            texts[row] = captions[int(torch.randint(len(captions), ()))]
    return list(texts), list(texts.values())
