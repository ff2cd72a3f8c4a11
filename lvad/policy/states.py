"""The states that predict given completions, all at once or some completions at a time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lvad.policy.passes import Trunk, read_completions
from lvad.types import Rollouts


def predicting_states(
    text_model: Any, embed: Callable[[Tensor], Tensor], trunk: Trunk, rollouts: Rollouts, at_once: int | None
) -> Tensor:
    """float[B, K, T, E], differentiable; the last prompt token predicts the first token, each token the next.

    Args:
        text_model: of the policy.
        embed: tokens to embeddings.
        trunk: the prompts, read.
        rollouts: the completions.
        at_once: completions of a scene in one forward; the others wait. The backward pass then runs each forward
            again, so that the activations of one slice alone are held. None takes all.
    """

    def states(tokens: Tensor, completion_mask: Tensor) -> Tensor:
        is_fed = completion_mask[:, :, 1:]
        first = trunk.last[:, None, None].expand(-1, tokens.shape[1], -1, -1)
        if not is_fed.any():
            return first.expand(-1, -1, tokens.shape[2], -1)
        hidden = read_completions(text_model, trunk, embed(tokens[:, :, :-1][is_fed]), is_fed)
        rest = hidden.new_zeros(*is_fed.shape, hidden.shape[-1])
        return torch.cat([first.to(hidden.dtype), rest.masked_scatter(is_fed.unsqueeze(-1), hidden)], 2)

    num_completions = rollouts.tokens.shape[1]
    if at_once is None or at_once >= num_completions:
        return states(rollouts.tokens, rollouts.completion_mask)
    slices = zip(rollouts.tokens.split(at_once, 1), rollouts.completion_mask.split(at_once, 1), strict=True)
    return torch.cat([checkpoint(states, *part, use_reentrant=False) for part in slices], 1)
