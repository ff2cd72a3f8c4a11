"""Stage 1's description before stage 2's question."""

import hashlib
from dataclasses import dataclass

import torch

from lvad.fingerprints import fingerprints
from lvad.policy.hf import HFPolicy
from lvad.types import Batch

GREY = 128
"""What hidden frames are filled with: SmolVLM drops an all-black one as padding."""


@dataclass(frozen=True)
class Description:
    """What stands before the question: what the policy's start, which is stage 1, says of the scene.

    Args:
        sampled: draw a new description at every training step (greedy in evaluation); False takes the greedy one,
            made once per scene.
        hide_frames: share of the training scenes whose frames turn grey once they are described. With few labels the
            answer is learnt from the pixels and the description is not read; where the frames are hidden it must be.
            0 in the paper.

    Raises:
        ValueError: for a share outside [0, 1].
    """

    sampled: bool = False
    hide_frames: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.hide_frames <= 1:
            raise ValueError(f"hide_frames must be in [0, 1], got {self.hide_frames}")


class Describer:
    """Makes descriptions by weights that are never trained, and keeps the greedy ones.

    Args:
        style: how; None describes nothing.
    """

    def __init__(self, style: Description | None) -> None:
        self.style = style
        self.known: dict[str, str] = {}
        """By the frames' content and by what was asked."""

    @torch.no_grad()
    def describe(self, policy: HFPolicy, batch: Batch, is_training: bool) -> list[str]:
        """B descriptions; empty where none is wanted."""
        if self.style is None:
            return [""] * len(batch.ids)
        if self.style.sampled and is_training:
            return self._say(policy, batch, greedy=False)
        # Not by the id: other pictures may have it too, such as those that a run's checkpoint is asked to predict.
        asked = f"{policy.prompts.describe}\0{policy.sampling.max_new_tokens}\0".encode()
        keys = [hashlib.blake2b(asked + seen, digest_size=16).hexdigest() for seen in fingerprints(batch.frames)]
        if not all(key in self.known for key in keys):
            self.known |= dict(zip(keys, self._say(policy, batch, greedy=True), strict=True))
        return [self.known[key] for key in keys]

    def hide(self, batch: Batch, is_training: bool) -> Batch:
        """The scenes with some of their frames hidden, drawn anew at every call; all shown in evaluation."""
        if self.style is None or not is_training or self.style.hide_frames == 0:
            return batch
        is_hidden = (torch.rand(len(batch.ids)) < self.style.hide_frames).tolist()
        frames = [
            torch.full_like(shown, GREY) if hidden else shown
            for shown, hidden in zip(batch.frames, is_hidden, strict=True)
        ]
        return batch._replace(frames=frames)

    @staticmethod
    def _say(policy: HFPolicy, batch: Batch, greedy: bool) -> list[str]:
        with policy.as_reference() as start:
            return [row[0] for row in start.generate(start.encode(batch), 1, greedy=greedy).texts]
