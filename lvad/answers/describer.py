"""Descriptions of scenes by stage 1, which stage 2 puts before its question."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from lvad.errors import DataError
from lvad.ops import fingerprints
from lvad.policy.hf import HFPolicy
from lvad.rewards.freeze import freeze_module
from lvad.types import Batch, Reward

GREY = 128
"""Value of hidden frames: SmolVLM drops an all-black frame as padding."""


@dataclass(frozen=True)
class DescriptionOptions:
    """Options of the description that the initial policy, which is stage 1, puts before the question.

    Args:
        sampled: draw a new description at every training step (greedy in evaluation); False takes the greedy one,
            made once per scene.
        hide_frames: share of the training scenes whose frames turn grey once they are described. With few labels the
            answer is learnt from the pixels and the description is not read; where the frames are hidden it must be.
            0 in the paper.
        all_hidden_until: share of the fit's steps in which all frames are hidden, before ``hide_frames`` holds:
            reading is learnt first, looking is added.
        text_only: hide all frames from the question, in evaluation too: the answer is read from the text only.
        source: who describes: the ``policy``, or the scene's last ``caption``, which tells all that matters (only
            synthetic scenes have one). Captions are labels: an upper bound of what descriptions can give, no method.
        best_of: take the best of so many sampled descriptions instead of the greedy one, once per scene; 1 for none.
        reward: chooses the best one, in evaluation too, so it must not need labels.

    Raises:
        ValueError: for a share outside [0, 1], captions that should be sampled, or one of ``best_of`` and ``reward``
            without the other.
    """

    sampled: bool = False
    hide_frames: float = 0.0
    all_hidden_until: float = 0.0
    text_only: bool = False
    source: Literal["policy", "caption"] = "policy"
    best_of: int = 1
    reward: Reward | None = None

    def __post_init__(self) -> None:
        for name in ("hide_frames", "all_hidden_until"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.sampled and self.source == "caption":
            raise ValueError("a true description is not sampled: set describe.sampled false, or source policy")
        if self.best_of < 1 or (self.best_of > 1) != (self.reward is not None):
            raise ValueError(f"best_of must be > 1 with a reward, and 1 without, got {self.best_of}")
        if self.best_of > 1 and (self.sampled or self.source == "caption"):
            raise ValueError(
                "best_of chooses among the policy's samples: set describe.sampled false, and source policy"
            )

    def hidden_share(self, is_training: bool, progress: float) -> float:
        """Return the share of the scenes whose frames are hidden.

        Args:
            is_training: True in training, False in evaluation.
            progress: the share of the fit's steps that are done.
        """
        if self.text_only:
            return 1.0
        if not is_training:
            return 0.0
        return 1.0 if progress < self.all_hidden_until else self.hide_frames


class Describer(nn.Module):
    """Makes descriptions with weights that are never trained, and keeps the greedy ones.

    Args:
        style: the options; None describes nothing.
    """

    def __init__(self, style: DescriptionOptions | None) -> None:
        super().__init__()
        self.style = style
        self.reward = None if style is None or style.reward is None else freeze_module(style.reward, "describe.reward")
        self._known: dict[str, str] = {}
        """The kept descriptions, by the frames' content and by what was asked."""

    @property
    def is_policy(self) -> bool:
        """Whether the policy's start describes, so that an export must hold its weights too."""
        return self.style is not None and self.style.source == "policy"

    @property
    def is_scheduled(self) -> bool:
        """Whether the share of hidden frames depends on the progress of the fit."""
        return self.style is not None and self.style.all_hidden_until > 0

    @property
    def is_oracle(self) -> bool:
        """Whether the descriptions come from labels."""
        return self.style is not None and self.style.source == "caption"

    def kept_descriptions(self) -> dict[str, str]:
        """Return the descriptions that are kept, for a checkpoint."""
        return dict(self._known)

    def restore_descriptions(self, kept: Mapping[str, str]) -> None:
        """Put kept descriptions in place of the present ones.

        Args:
            kept: as returned by ``kept_descriptions``.
        """
        self._known = dict(kept)

    @torch.no_grad()
    def describe(self, policy: HFPolicy, batch: Batch, is_training: bool) -> list[str]:
        """Describe B scenes; the texts are empty if no description is wanted.

        Raises:
            DataError: where a scene's caption is asked for and it has none.
        """
        if self.style is None:
            return [""] * len(batch.ids)
        if self.style.source == "caption":
            return [_true_description(*scene) for scene in zip(batch.ids, batch.captions, strict=True)]
        if self.style.sampled and is_training:
            return self.sample_descriptions(policy, batch, 1)[0]
        # Not by the id: other pictures may have it too, such as those that a run's checkpoint is asked to predict.
        asked = f"{policy.prompts.describe}\0{policy.sampling.max_new_tokens}\0{self.style.best_of}\0".encode()
        keys = [hashlib.blake2b(asked + seen, digest_size=16).hexdigest() for seen in fingerprints(batch.frames)]
        if not all(key in self._known for key in keys):
            self._known |= dict(zip(keys, self._choose(policy, batch, self.style.best_of), strict=True))
        return [self._known[key] for key in keys]

    def _choose(self, policy: HFPolicy, batch: Batch, best_of: int) -> list[str]:
        with policy.as_reference() as start:
            rollouts = start.generate(start.encode(batch), best_of, greedy=best_of == 1)
        if self.reward is None:
            return [row[0] for row in rollouts.texts]
        best = self.reward.score(batch, rollouts).total.cpu().argmax(1).tolist()
        return [row[i] for row, i in zip(rollouts.texts, best, strict=True)]

    @staticmethod
    @torch.no_grad()
    def sample_descriptions(policy: HFPolicy, batch: Batch, count: int) -> list[list[str]]:
        """Draw ``count`` new descriptions of each of B scenes: ``count`` rows of B texts."""
        with policy.as_reference() as start:
            rows = start.generate(start.encode(batch), count, greedy=False).texts
        return [list(texts) for texts in zip(*rows, strict=True)]

    def hide(self, batch: Batch, is_training: bool, progress: float = 1.0) -> Batch:
        """Hide the frames of some scenes, which are drawn anew at every call.

        Args:
            batch: the scenes.
            is_training: in evaluation all frames are shown, unless the options say ``text_only``.
            progress: the share of the fit's steps that are done.
        """
        share = 0.0 if self.style is None else self.style.hidden_share(is_training, progress)
        if share == 0:
            return batch
        is_hidden = (torch.rand(len(batch.ids)) < share).tolist()
        frames = [
            torch.full_like(shown, GREY) if hidden else shown
            for shown, hidden in zip(batch.frames, is_hidden, strict=True)
        ]
        return batch._replace(frames=frames)


def _true_description(name: str, captions: tuple[str, ...]) -> str:
    if not captions:
        raise DataError(f"scene {name} has no caption to stand as its true description; set describe.source policy")
    return captions[-1]
