"""The base class of estimators, with what an estimator is given and what it returns."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lvad.types import Rollouts


class ScoredRollouts(NamedTuple):
    """What an estimator is given: the rewards of K completions of each of B scenes, and what a baseline may need."""

    rewards: Tensor
    """float[B, K], with limits and penalties; finite."""
    is_kept: Tensor
    """bool[B], False on scenes that take no part because a reward of theirs was not finite."""
    rollouts: Rollouts
    states: Callable[[], Tensor]
    """Returns a hidden state of each prompt, float[B, E] with hidden size E; without gradient."""
    greedy_rewards: Callable[[], tuple[Tensor, Tensor]]
    """Decodes once more: the reward of each scene's greedy completion, float[B], without penalties, and whether it was
    finite, bool[B] (0 stands for one that was not)."""


class Estimate(NamedTuple):
    """The weights of the completions' log-probabilities, which an estimator returns."""

    advantages: Tensor
    """float[B, K]."""
    loss: Tensor | None = None
    """float[], the loss of the estimator's own parameters; it depends on no others."""
    logged: Mapping[str, Tensor] = MappingProxyType({})
    """float[] by name."""
    is_kept: Tensor | None = None
    """bool[B], False on further scenes that take no part; None: those of ``ScoredRollouts``."""


class Estimator(nn.Module):
    """Turns rewards into advantages; a subclass says in its docstring what gradient it is unbiased for.

    Buffers and parameters of an estimator are part of a checkpoint.
    """

    min_completions = 2
    """The least number of completions K."""
    keeps_buffers = True
    """Checkpoints keep the buffers (``lvad.trained_weights``)."""
    lr: float | None = None
    """Learning rate of the estimator's own parameters."""

    def prepare(self, state_size: int) -> None:
        """Build what depends on the policy, whose states have ``state_size`` entries, before training."""

    def estimate(self, scored: ScoredRollouts) -> Estimate:
        """Compute advantages float[B, K] in a training step, and update what depends on earlier steps."""
        raise NotImplementedError

    @contextmanager
    def gradients_set_aside(self) -> Iterator[None]:
        """Remove the gradients of the estimator's own parameters inside a block, and restore them after it."""
        gradients = {parameter: parameter.grad for parameter in self.parameters()}
        self.zero_grad()
        try:
            yield
        finally:
            for parameter, gradient in gradients.items():
                parameter.grad = gradient

    def zero_loss(self) -> Tensor:
        """Return zero, float[], as a function of every parameter of the estimator.

        A loss must contain every trained parameter: on several devices one that takes no part is an error.
        """
        return torch.stack([0.0 * parameter.sum() for parameter in self.parameters()]).sum()
