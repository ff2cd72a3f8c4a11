"""The abilities of each kind of run and model (describe, decide, score, sample), as functions of a batch."""

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
    "describe": "load an RLOO run (configs/rloo.yaml), a run that answers after descriptions, or a model's folder",
    "decide": "load the run folder of a stage that answers, as configs/action_sft.yaml trains it",
    "score": "load a run with a reward (configs/rloo.yaml, configs/clip_reward.yaml), or a CLIP's folder",
    "sample": "load an RLOO run (configs/rloo.yaml), a run that answers after descriptions, or a model's folder",
}
"""For each ability, what to load to have it."""


class Abilities(NamedTuple):
    """What a run or a model can do; None for what it cannot."""

    kind: str
    """Name of the loaded class, for messages."""
    module: nn.Module
    """The module with all weights."""
    describe: Callable[[Batch], list[str]] | None = None
    """Returns B greedy descriptions."""
    decide: Callable[[Batch], list[AnsweredScene]] | None = None
    """Returns B answers with probabilities."""
    policy: Callable[[], AbstractContextManager[Policy]] | None = None
    """Opens a block with the policy whose completions are descriptions."""
    reward: Reward | None = None
    """The reward of completions."""

    def names(self) -> tuple[str, ...]:
        """Return the keys of ``REMEDIES`` that it can do."""
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
        """Score the completions, float[B, K]: the total is the cosine, as in a reward made from the exported model."""
        images = self.module.clip.embed_frames(batch.frames)
        texts = [self.module.clip.embed_texts(row) for row in rollouts.texts]
        cosines = torch.stack([(row @ image) for image, row in zip(images, texts, strict=True)])
        slope, offset = self.module.calibration
        return Scores(cosines, {"clip": cosines, "match_probability": (slope * cosines + offset).sigmoid()})


def abilities_of_run(module: LightningModule) -> Abilities:
    """Return the abilities of a run.

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
    """Return the abilities of a vision-language model without a run: it describes and samples."""
    return Abilities(type(policy).__name__, policy, _greedy(policy), None, lambda: nullcontext(policy))


def abilities_of_clip(clip: CLIPCosine) -> Abilities:
    """Return the ability of a CLIP without a run: it scores."""
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
