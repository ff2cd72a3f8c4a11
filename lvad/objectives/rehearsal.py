"""Rehearsal: a supervised loss on a few labelled scenes, so that the policy does not forget how to describe."""

from typing import Literal

import torch
from torch import Tensor

from lvad.data.collate import SceneDataset, collate
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.samplers import shuffled_cycle
from lvad.errors import DataError
from lvad.losses.supervised import token_cross_entropy
from lvad.text import render
from lvad.types import Batch, Policy, Scene


class Rehearsal:
    """Adds the supervised cross-entropy on labelled scenes to the policy gradient ("PTX").

    Which scenes a step takes depends only on its number, so a resumed run takes the same ones. They count as
    labelled in the run's budget ledger.

    Args:
        data: where the scenes come from; its training scenes are used, with ``num_scenes.train`` saying how many.
        target: the text to learn: one of a scene's ``caption`` texts, or its ``answer`` ("Action: stop. Reason:
            ...").
        weight: of the cross-entropy per token, beside a policy gradient that sums over K completions.
        decay_steps: training batches after which the weight has fallen to 0, by a straight line; None keeps it.
        batch_size: labelled scenes per training step and process.

    Raises:
        ValueError: for a weight that is not positive, sizes or a decay below 1, or data whose labels are hidden.

    Source:
        Ouyang et al. 2022 (arXiv:2203.02155), Eq. 2 ("PPO-ptx").
    """

    def __init__(
        self,
        data: BDDOIADataModule,
        target: Literal["caption", "answer"] = "caption",
        weight: float = 1.0,
        decay_steps: int | None = None,
        batch_size: int = 4,
    ) -> None:
        if target not in ("caption", "answer"):
            raise ValueError(f"target must be caption or answer, got {target!r}")
        if not weight > 0:
            raise ValueError(f"rehearsal weight must be > 0, got {weight}; leave rehearsal out for none")
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        if decay_steps is not None and decay_steps < 1:
            raise ValueError(f"decay_steps must be >= 1, or null to keep the weight, got {decay_steps}")
        if data.split.unlabelled:
            raise ValueError("rehearsal needs labels: set data.split.unlabelled false in it")
        self.data, self.target, self.weight = data, target, weight
        self.decay_steps, self.batch_size = decay_steps, batch_size

    @property
    def scenes(self) -> list[Scene]:
        """The labelled scenes, after ``data`` is set up."""
        return self.data.scenes.get("train", [])

    def setup(self) -> None:
        """Read the scenes.

        Raises:
            DataError: without scenes, or naming one that has nothing to rehearse.
        """
        self.data.setup("fit")
        if not self.scenes:
            raise DataError.at(self.data.source.path, "", "no training scenes to rehearse", "raise num_scenes.train")
        for scene in self.scenes:
            if not (scene.captions if self.target == "caption" else scene.actions and scene.reasons):
                problem = f"scene {scene.id!r} has no {self.target} to rehearse"
                raise DataError.at(self.data.source.path, "", problem, "choose the other target, or label it")

    def weight_at(self, step: int) -> float:
        """Compute the weight after that many training batches."""
        return self.weight if self.decay_steps is None else self.weight * max(0.0, 1 - step / self.decay_steps)

    def batch_at(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Read the labelled scenes of a training batch: each once before any comes again."""
        dataset = SceneDataset(self.scenes, self.data.source.num_frames, self.data.source.image_size_px)
        first = (step * world_size + rank) * self.batch_size
        places = shuffled_cycle(len(self.scenes), self.data.seed, first, self.batch_size)
        return collate([dataset[place] for place in places], self.data.taxonomy)

    def loss(self, policy: Policy, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the weighted cross-entropy per target token after the stage-1 prompt, float[], and what is logged.

        Args:
            policy: the model.
            step: training batches before this one.
            rank: of this process.
            world_size: number of processes.
        """
        weight = self.weight_at(step)
        if weight == 0:
            return torch.zeros(()), {"rehearsal/weight": torch.tensor(0.0)}
        batch = self.batch_at(step, rank, world_size)
        targets = policy.targets([[self._target_text(batch, i, step)] for i in range(len(batch.ids))])
        logps = policy.logprobs(policy.encode(batch), targets)
        loss = token_cross_entropy(logps.flatten(0, 1), targets.completion_mask.flatten(0, 1))
        return weight * loss, {"rehearsal/loss": loss.detach(), "rehearsal/weight": torch.tensor(weight)}

    def _target_text(self, batch: Batch, i: int, step: int) -> str:
        if self.target == "caption":
            return batch.captions[i][step % len(batch.captions[i])]
        return render(batch.actions[i].tolist(), batch.reasons[i].tolist(), batch.taxonomy)
