"""What each kind of run and model can be asked, as functions of a batch."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, NamedTuple

import torch
from lightning import LightningModule
from torch import nn

from lvad.errors import DataError
from lvad.modules import ActionSFT, CLIPReward, RLOOPolicy, TextReader
from lvad.policy import HFPolicy
from lvad.rewards import CLIPCosine
from lvad.types import AnsweredScene, Batch, Policy, Reward, Rollouts, Scores

REMEDIES: Final = {
    "describe": "load an RLOO run (configs/rloo.yaml), a run that answers behind descriptions, or a model's folder",
    "decide": "load the run folder of a stage that answers, as configs/action_sft.yaml trains it",
    "score": "load a run with a reward (configs/rloo.yaml, configs/clip_reward.yaml), or a CLIP's folder",
    "sample": "load an RLOO run (configs/rloo.yaml), a run that answers behind descriptions, or a model's folder",
}
"""What to load for each thing that can be asked."""


class Abilities(NamedTuple):
    """What can be asked; None for what cannot."""

    kind: str
    """The class that was loaded, for messages."""
    module: nn.Module
    """Holds all weights."""
    describe: Callable[[Batch], list[str]] | None = None
    """B greedy descriptions."""
    decide: Callable[[Batch], list[AnsweredScene]] | None = None
    """B answers with probabilities."""
    policy: Callable[[], AbstractContextManager[Policy]] | None = None
    """The policy whose completions are descriptions, for the time of a block."""
    reward: Reward | None = None
    """Scores completions."""

    def names(self) -> tuple[str, ...]:
        """Those of ``REMEDIES`` that can be asked."""
        parts = {"describe": self.describe, "decide": self.decide, "score": self.reward, "sample": self.policy}
        return tuple(name for name, part in parts.items() if part is not None)


class TunedCLIP(nn.Module):
    """A run of ``CLIPReward`` as a reward: the cosine, with the calibrated probability that text and scene match.

    Args:
        module: with the weights of a checkpoint, which are mixed with the start's as validation chose.
    """

    def __init__(self, module: CLIPReward) -> None:
        super().__init__()
        module.on_test_start()  # the weights that validation chose
        self.module = module

    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        """float[B, K]: the cosine is the total, as a reward made of the exported model gives it."""
        images = self.module.clip.embed_frames(batch.frames)
        texts = [self.module.clip.embed_texts(row) for row in rollouts.texts]
        cosines = torch.stack([(row @ image) for image, row in zip(images, texts, strict=True)])
        slope, offset = self.module.calibration
        return Scores(cosines, {"clip": cosines, "match_probability": (slope * cosines + offset).sigmoid()})


def abilities_of_run(module: LightningModule) -> Abilities:
    """What a run can be asked.

    Args:
        module: one of lvad's stages, with its trained weights.

    Raises:
        DataError: for a module of another class.
    """
    kind = type(module).__name__
    if isinstance(module, RLOOPolicy):
        policy = module.policy
        return Abilities(kind, module, _greedy(policy), None, lambda: nullcontext(policy), module.reward)
    if isinstance(module, CLIPReward):
        return Abilities(kind, module, reward=TunedCLIP(module))
    if isinstance(module, TextReader):
        reader, policy = module, module.policy
        return Abilities(
            kind, module, _greedy(policy), lambda b: reader.predict_step(b, 0), lambda: nullcontext(policy)
        )
    if isinstance(module, ActionSFT):
        return _of_answers(module)
    raise DataError(
        f"{kind} is no stage of lvad: lvad.load takes runs of RLOOPolicy, CLIPReward, ActionSFT, TextReader"
    )


def abilities_of_policy(policy: HFPolicy) -> Abilities:
    """A vision-language model by itself describes."""
    return Abilities(type(policy).__name__, policy, _greedy(policy), None, lambda: nullcontext(policy))


def abilities_of_clip(clip: CLIPCosine) -> Abilities:
    """A CLIP by itself scores."""
    return Abilities(type(clip).__name__, clip, reward=clip)


def _of_answers(module: ActionSFT) -> Abilities:
    kind, judge = type(module).__name__, module.judge if isinstance(module.judge, Reward) else None
    policy, describer = module.policy, module.describer
    if module.target == "caption":
        return Abilities(kind, module, _greedy(policy), None, lambda: nullcontext(policy), judge)

    def decide(batch: Batch) -> list[AnsweredScene]:
        answered: Any = module.predict_step(batch, 0)
        return answered

    if not describer.is_policy:
        return Abilities(kind, module, decide=decide, reward=judge)

    def describe(batch: Batch) -> list[str]:
        return describer.describe(policy, batch, is_training=False)

    return Abilities(kind, module, describe, decide, policy.as_reference, judge)


def _greedy(policy: Policy) -> Callable[[Batch], list[str]]:
    def describe(batch: Batch) -> list[str]:
        rows = policy.generate(policy.encode(batch), 1, greedy=True).texts
        return [row[0] for row in rows]

    return describe
