"""Objectives of stage 2: cross-entropy of the right texts, or the risk of the model's own texts."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lvad.losses.minimum_risk import is_first_occurrence, minimum_risk
from lvad.losses.policy_gradient import leave_one_out, reinforce
from lvad.losses.supervised import token_cross_entropy
from lvad.ops import sequence_sum
from lvad.policy.grammar import AnswerGrammar
from lvad.policy.hf import HFPolicy
from lvad.ranks import gather
from lvad.rewards.bleu import best_bleu
from lvad.types import Prefix, Rollouts


class SupervisedBatch(NamedTuple):
    """B encoded scenes with their right texts: the input of an ``Objective``."""

    prefix: Prefix
    texts: list[list[str]]
    """B rows of right texts, as many in each."""
    weights: Tensor
    """float[B], the weights of the scenes."""
    grammar: AnswerGrammar | None
    """The grammar of the answers; None if the model writes freely."""
    mean_tokens: float | None = None
    """Tokens of a right text, on average over the training set; None counts those of the batch."""


@runtime_checkable
class Objective(Protocol):
    """A loss of stage 2."""

    def loss(self, policy: HFPolicy, batch: SupervisedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss float[], and what is logged beside it."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """The negative log-likelihood of the right texts per token.

    Args:
        class_weights: weigh scenes by how rare their actions are, so that always-stop does not pay.
    """

    class_weights: bool = False

    def loss(self, policy: HFPolicy, batch: SupervisedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Average over the texts' tokens only, never image, prompt or padding."""
        targets = policy.targets(batch.texts)
        logps = policy.logprobs(batch.prefix, targets)
        weights = batch.weights.repeat_interleave(logps.shape[1]) if self.class_weights else None
        mask = targets.completion_mask.flatten(0, 1)
        return token_cross_entropy(logps.flatten(0, 1), mask, weights, batch.mean_tokens), {}


@dataclass(frozen=True)
class ExpectedBLEU:
    """The expected sentence-BLEU of the model's own texts, by REINFORCE with the leave-one-out baseline.

    Args:
        num_completions: K drawn answers per scene; at least 2.
    """

    num_completions: int = 8

    def loss(self, policy: HFPolicy, batch: SupervisedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute a loss whose gradient is unbiased for that of -E[BLEU]; its value has no meaning."""
        rollouts = policy.generate(batch.prefix, self.num_completions, grammar=batch.grammar)
        bleu = _bleu(rollouts, batch)
        logps = policy.logprobs(batch.prefix, rollouts, batch.grammar)
        loss = reinforce(logps, leave_one_out(bleu), rollouts.completion_mask)
        return loss, {"train/bleu": bleu.mean()}


@dataclass(frozen=True)
class MinimumRiskBLEU:
    """Minimum risk training: 1 - BLEU under the model's distribution, renormalised over drawn and right texts.

    Args:
        num_completions: drawn answers per scene.
        sharpness: exponent of the renormalised distribution (alpha of Shen et al. 2016, who took 0.005 for sentences).

    Source:
        Shen et al. 2016 (arXiv:1512.02433), whose sampled subspace holds the right answer as well.
    """

    num_completions: int = 8
    sharpness: float = 0.05

    def loss(self, policy: HFPolicy, batch: SupervisedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the expected risk over the distinct finished texts of each scene."""
        drawn = policy.generate(batch.prefix, self.num_completions, grammar=batch.grammar)
        texts = [[*right, *said] for right, said in zip(batch.texts, _finished(drawn, batch), strict=True)]
        # Encoded again, so that the right text and the same text drawn are one member of the set.
        subspace = policy.targets(texts)
        risks = 1 - _bleu(subspace, batch)
        logps = sequence_sum(policy.logprobs(batch.prefix, subspace), subspace.completion_mask)
        is_first = is_first_occurrence(subspace.tokens, subspace.completion_mask)
        loss = minimum_risk(logps, risks, self.sharpness, is_first)
        return loss, {"train/bleu": _bleu(drawn, batch).mean()}


def log_supervised_share(module: LightningModule, policy: HFPolicy, batch: SupervisedBatch) -> None:
    """Print and log the share of a batch's tokens that the loss is on; with the prompt it would be near 1.

    Args:
        module: at its first training step.
        policy: what it trains.
        batch: the batch.
    """
    counts = gather((int(policy.targets(batch.texts).completion_mask.sum()), sum(batch.prefix.lengths)))
    num_targets, num_prompts = (sum(column) for column in zip(*counts, strict=True))
    share = num_targets / (num_targets + num_prompts)
    rank_zero_info(f"supervised tokens of the first batch: {num_targets} ({100 * share:.1f} %)")
    if module.logger is not None:
        module.logger.log_metrics({"train/supervised_share": share}, step=0)


def _finished(drawn: Rollouts, batch: SupervisedBatch) -> list[list[str]]:
    """Replace truncated texts by the scene's right one, which as a repetition drops out of the set.

    Encoded again, a truncated text would have an end token that the model never gave it.
    """
    rows = zip(batch.texts, drawn.texts, drawn.is_truncated.tolist(), strict=True)
    return [[right[0] if cut else text for text, cut in zip(said, cuts, strict=True)] for right, said, cuts in rows]


def _bleu(rollouts: Rollouts, batch: SupervisedBatch) -> Tensor:
    """Compute BLEU against the scene's right texts, float[B, K] in 0 .. 1."""
    scores = [
        [best_bleu(text, right) for text in said] for said, right in zip(rollouts.texts, batch.texts, strict=True)
    ]
    return torch.tensor(scores, device=rollouts.tokens.device)
