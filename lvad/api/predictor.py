"""A loaded run or model, with methods to describe, decide, score and sample."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lvad.api.abilities import REMEDIES, Abilities
from lvad.api.results import Decision, SampledText, TextScore, decision, sampled_texts, text_scores
from lvad.api.scenes import Frames, SceneLoader
from lvad.commands.trained_run import load_trial_scenes
from lvad.data.collate import collate
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.reading import is_text
from lvad.errors import DataError
from lvad.ops import seeded
from lvad.policy import HFPolicy
from lvad.rollouts import sample
from lvad.taxonomy import Taxonomy
from lvad.types import Batch, Policy, Rollouts, Scene

T = TypeVar("T")


class Predictor:
    """Describes, decides, scores and samples, as far as the loaded run or model can; ``lvad.load`` makes it.

    Everything but ``sample`` is greedy, and every call gives the same result again. Results are those of
    ``lvad predict`` for the same frames in the same batches.

    Args:
        name: what was loaded, for messages.
        abilities: what it can be asked.
        data: what it was trained on: its limits hold for all frames.
    """

    def __init__(self, name: str, abilities: Abilities, data: BDDOIADataModule) -> None:
        self.name, self.batch_size = name, data.eval_batch_size
        self.loader = SceneLoader(
            data.source.num_frames, data.source.image_size_px, data.source.fps, data.source.video_stream, data.taxonomy
        )
        self._abilities, self._data = abilities, data
        abilities.module.eval()

    def __repr__(self) -> str:
        return f"Predictor({self.name!r}, {self.kind}: {', '.join(self.abilities)})"

    @property
    def kind(self) -> str:
        """The class that was loaded, such as ``RLOOPolicy``."""
        return self._abilities.kind

    @property
    def abilities(self) -> tuple[str, ...]:
        """The names of the methods that it answers: some of ``describe``, ``decide``, ``score`` and ``sample``."""
        return self._abilities.names()

    @property
    def taxonomy(self) -> Taxonomy:
        """The label set of its decisions."""
        return self.loader.taxonomy

    def describe(self, frames: Frames) -> str:
        """Describe one scene.

        Args:
            frames: a picture (a file, a PIL image, uint8[H, W, 3]), several of them (oldest first), a video file, or a
                ``Scene``; of several frames the last count, as many as the run was trained on.

        Raises:
            DataError: if the frames cannot be used, or what was loaded does not describe.
        """
        return self.describe_batch([frames])[0]

    def describe_batch(self, scenes: Sequence[Frames]) -> list[str]:
        """Describe several scenes; each entry is what ``describe`` takes."""
        describe = self._require("describe", self._abilities.describe)
        return self._in_batches(scenes, describe)

    def decide(self, frames: Frames) -> Decision:
        """Decide what may be done in one scene, and why.

        Args:
            frames: as for ``describe``.

        Raises:
            DataError: if the frames cannot be used, or what was loaded does not decide.
        """
        return self.decide_batch([frames])[0]

    def decide_batch(self, scenes: Sequence[Frames]) -> list[Decision]:
        """Decide on several scenes; each entry is what ``decide`` takes."""
        decide = self._require("decide", self._abilities.decide)
        return [decision(answered, self.taxonomy) for answered in self._in_batches(scenes, decide)]

    def score(self, frames: Frames, texts: str | Sequence[str]) -> list[TextScore]:
        """Score texts: an RLOO run by the reward that it trains on, a run that answers by the judge of its test.

        Args:
            frames: as for ``describe``.
            texts: K texts.

        Returns:
            K rewards in the order of the texts.

        Raises:
            DataError: if frames or texts cannot be used, or what was loaded has no reward.
        """
        reward = self._require("score", self._abilities.reward)
        rows = _checked_texts(texts)
        with self._asked():
            batch = self._batch([frames])
            return text_scores(reward.score(batch, self._written(rows)))

    def sample(
        self, frames: Frames, num_completions: int = 8, temperature: float | None = None, seed: int = 0
    ) -> list[SampledText]:
        """Draw descriptions of one scene, with their rewards where there is one.

        Args:
            frames: as for ``describe``.
            num_completions: K.
            temperature: divides the logits; None keeps the one that the run was trained with.
            seed: of the draws; the random state of the process stays as it was.

        Returns:
            K completions in the order in which they were drawn.

        Raises:
            DataError: if the frames cannot be used, or what was loaded does not describe.
            ValueError: for a temperature or a number of completions that is not positive.
        """
        speak = self._require("sample", self._abilities.policy)
        if num_completions < 1:
            raise ValueError(f"num_completions must be >= 1, got {num_completions}")
        with self._asked():
            batch = self._batch([frames])
            with speak() as policy, _at_temperature(policy, temperature):
                rollouts = sample(policy, policy.encode(batch), num_completions, seed)
            reward = self._abilities.reward
            return sampled_texts(rollouts, None if reward is None else reward.score(batch, rollouts))

    def scenes(self, path: str | os.PathLike[str]) -> list[Scene]:
        """Return the scenes of a picture, a video or a folder of either, in time order, for the methods above.

        Every frame of a sequence ends one scene, together with the frames before it, as ``lvad predict`` has them.

        Args:
            path: a file or a folder.

        Raises:
            DataError: naming the first file that cannot be read.
        """
        return self.loader.scenes(path)

    def examples(self, count: int = 4) -> list[np.ndarray]:
        """Return scenes to try: validation scenes of the run where its data lies, else synthetic ones.

        Args:
            count: how many at most.

        Returns:
            uint8[M, H, W, 3] for each, as the methods above take them.
        """
        shown = load_trial_scenes(self._data, count).frames
        return [frames.permute(0, 2, 3, 1).numpy() for frames in shown]

    def frames(self, frames: Frames) -> Tensor:
        """Return the frames of one scene as the model sees them, uint8[M, 3, H, W].

        Args:
            frames: as for ``describe``.
        """
        return self.loader.read(frames)[1]

    def _require(self, ability: str, part: T | None) -> T:
        if part is None:
            problem = f"{self.name} ({self.kind}) does not {ability}, it can {', '.join(self.abilities)}"
            raise DataError(f"{problem}; {REMEDIES[ability]}")
        return part

    def _in_batches(self, scenes: Sequence[Frames], ask: Callable[[Batch], list[T]]) -> list[T]:
        if isinstance(scenes, str | os.PathLike):
            raise DataError(f"several scenes are a list, got the path {scenes}; give .scenes(path), or [path] for one")
        found: list[T] = []
        for first in range(0, len(scenes), self.batch_size):
            with self._asked():
                found += ask(self._batch(scenes[first : first + self.batch_size]))
        return found

    @contextmanager
    def _asked(self) -> Iterator[None]:
        with torch.inference_mode(), seeded(0, self._device):
            yield

    def _batch(self, scenes: Sequence[Frames]) -> Batch:
        batch = collate([self.loader.read(frames) for frames in scenes], self.taxonomy)
        frames = [shown.to(self._device) for shown in batch.frames]
        labels = {"actions": batch.actions.to(self._device), "reasons": batch.reasons.to(self._device)}
        return batch._replace(frames=frames, **labels)

    def _written(self, texts: list[str]) -> Rollouts:
        """Make completions of given texts: in the policy's tokens, or without tokens for a reward without a policy."""
        if self._abilities.policy is not None:
            with self._abilities.policy() as policy:
                return policy.targets([texts])
        nothing = torch.zeros(1, len(texts), 0, device=self._device)
        is_cut = torch.zeros(1, len(texts), dtype=torch.bool, device=self._device)
        return Rollouts(nothing.long(), nothing.bool(), nothing, nothing, is_cut, [texts])

    @property
    def _device(self) -> torch.device:
        return next(self._abilities.module.parameters()).device


def _checked_texts(texts: str | Sequence[str]) -> list[str]:
    rows = [texts] if isinstance(texts, str) else [*texts]
    if not rows:
        raise DataError("there is no text to score; give at least one")
    for text in rows:
        if not is_text(text):
            raise DataError(f"a text to score must be a string that UTF-8 can carry, got {text!r:.80}; correct it")
    return rows


@contextmanager
def _at_temperature(policy: Policy, temperature: float | None) -> Iterator[None]:
    if temperature is None:
        yield
        return
    if not isinstance(policy, HFPolicy):
        raise DataError(f"a {type(policy).__name__} has no temperature to change; leave temperature out")
    configured: Any = policy.sampling
    policy.sampling = replace(configured, temperature=temperature)
    try:
        yield
    finally:
        policy.sampling = configured
