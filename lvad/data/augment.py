"""Random views of labelled scenes, for the reward model (Appendix B.3 of the paper).

Departure from the paper: a horizontal flip exchanges left and right in the labels, captions and facts as well. The
paper flips only the pictures, which teaches "no lane on the left" of scenes without a lane on the right.
"""

from functools import cache

import torch
from torch import Tensor
from torchvision.transforms import v2

from lvad.errors import DataError
from lvad.facts import mirror_facts
from lvad.taxonomy import Taxonomy
from lvad.text import mirror_text
from lvad.types import Batch


def mirror_batch(batch: Batch) -> Batch:
    """Flip every scene horizontally: frames, labels, captions and facts. Applied twice, it gives the batch itself."""
    return batch._replace(
        frames=[frames.flip(-1) for frames in batch.frames],
        actions=batch.actions[:, list(batch.taxonomy.mirrored_actions)],
        reasons=batch.reasons[:, list(batch.taxonomy.mirrored_reasons)],
        captions=[tuple(mirror_text(caption) for caption in captions) for captions in batch.captions],
        facts=[None if facts is None else mirror_facts(facts) for facts in batch.facts],
    )


class Augment:
    """Random crop, colour jitter and horizontal flip; all frames of a scene get the same random values.

    Args:
        min_area: least share of the picture that a crop keeps; 1 switches it off.
        jitter: strength of the change of brightness, contrast and saturation; 0 switches it off.
        mirror_probability: share of the scenes that are mirrored, with their labels.

    Raises:
        ValueError: for a value out of range.
    """

    def __init__(self, min_area: float = 0.8, jitter: float = 0.2, mirror_probability: float = 0.5) -> None:
        if not 0 < min_area <= 1:
            raise ValueError(f"min_area must be in (0, 1], got {min_area}")
        if jitter < 0:
            raise ValueError(f"jitter must be >= 0, got {jitter}")
        if not 0 <= mirror_probability <= 1:
            raise ValueError(f"mirror_probability must be in [0, 1], got {mirror_probability}")
        self.min_area, self.mirror_probability = min_area, mirror_probability
        self.colour = v2.ColorJitter(jitter, jitter, jitter) if jitter else None

    def __call__(self, batch: Batch) -> Batch:
        """Return a random view of every scene; the random numbers come from torch's global generator.

        Raises:
            DataError: for a label that names a side and has no mirror partner, where scenes are to be mirrored.
        """
        if self.mirror_probability and (one_sided := _one_sided(batch.taxonomy)):
            problem = f"{one_sided!r} of the label set {batch.taxonomy.name!r} names a side and has no mirror partner"
            raise DataError(f"{problem}: give it one, or set augment.mirror_probability to 0")
        batch = batch._replace(frames=[self._view(frames) for frames in batch.frames])
        is_flipped = torch.rand(len(batch.ids)) < self.mirror_probability
        if not is_flipped.any():
            return batch
        return select_scenes(is_flipped, mirror_batch(batch), batch)

    def _view(self, frames: Tensor) -> Tensor:
        if self.min_area < 1:
            height, width = frames.shape[-2:]
            # The aspect ratio stays close to the frame's own, so that what is at a side stays visible there.
            ratio = (0.9 * width / height, width / height / 0.9)
            frames = v2.RandomResizedCrop((height, width), (self.min_area, 1.0), ratio, antialias=True)(frames)
        return frames if self.colour is None else self.colour(frames)


@cache
def _one_sided(taxonomy: Taxonomy) -> str:
    """Find a label that would be false of a mirrored scene; empty where there is none."""
    names = [*zip(taxonomy.action_names, taxonomy.mirrored_actions, strict=True)]
    texts = [*zip(taxonomy.reason_texts, taxonomy.mirrored_reasons, strict=True)]
    rows = (row for part in (names, texts) for row in enumerate(part))
    return next((text for i, (text, partner) in rows if partner == i and mirror_text(text) != text), "")


def select_scenes(is_first: Tensor, first: Batch, second: Batch) -> Batch:
    """Take each scene from the first batch where ``is_first``, bool[B], is True, else from the second."""
    pick = is_first.tolist()
    column = is_first.to(first.actions.device)[:, None]
    return first._replace(
        frames=[a if p else b for p, a, b in zip(pick, first.frames, second.frames, strict=True)],
        actions=torch.where(column, first.actions, second.actions),
        reasons=torch.where(column, first.reasons, second.reasons),
        captions=[a if p else b for p, a, b in zip(pick, first.captions, second.captions, strict=True)],
        facts=[a if p else b for p, a, b in zip(pick, first.facts, second.facts, strict=True)],
    )
