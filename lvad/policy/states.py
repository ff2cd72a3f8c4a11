"""The states that predict given completions, all at once or some completions at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lvad.policy.layout import token_cells, upload
from lvad.policy.passes import PromptCache, read_completions

Counts = Sequence[Sequence[int]]


def predicting_states(
    text_model: Any,
    embed: Callable[[Tensor], Tensor],
    prompt_cache: PromptCache,
    tokens: Tensor,
    counts: Counts,
    at_once: int | None,
) -> Tensor:
    """float[N, E], differentiable, in the order scene, completion, token.

    The last prompt token predicts the first token, each token the next.

    Args:
        text_model: of the policy.
        embed: tokens to embeddings.
        prompt_cache: the prompts, read.
        tokens: int64[B, K, T], the completions.
        counts: B times K numbers of their tokens, N in all.
        at_once: completions of a scene in one forward; the others wait. The backward pass then runs each forward
            again, so that the activations of one slice alone are held. None takes all.
    """
    num_completions = tokens.shape[1]
    if at_once is None or at_once >= num_completions:
        return _states(text_model, embed, prompt_cache, tokens, counts)
    parts, order = [], torch.arange(tokens.numel()).view(tokens.shape)
    owners = []
    for first in range(0, num_completions, at_once):
        some = slice(first, first + at_once)
        own = [row[some] for row in counts]
        given = (text_model, embed, prompt_cache, tokens[:, some], own)
        parts.append(checkpoint(_states, *given, use_reentrant=False))
        owners.append(order[:, some].flatten()[token_cells(own, tokens.shape[2])])
    return torch.cat(parts).index_select(0, upload(torch.cat(owners).argsort(), tokens.device))


def _states(
    text_model: Any, embed: Callable[[Tensor], Tensor], prompt_cache: PromptCache, tokens: Tensor, counts: Counts
) -> Tensor:
    sizes = torch.tensor(counts)
    num_fed = (sizes - 1).clamp(min=0)
    first = prompt_cache.last.unsqueeze(1).expand(-1, tokens.shape[1], -1).flatten(0, 1)
    sources = _sources(sizes, num_fed)
    if not num_fed.any():
        return first.index_select(0, upload(sources, tokens.device))
    fed = upload(token_cells(num_fed.tolist(), tokens.shape[2]), tokens.device)
    hidden = read_completions(text_model, prompt_cache, embed(tokens.flatten().index_select(0, fed)), num_fed.tolist())
    return torch.cat([first.to(hidden.dtype), hidden]).index_select(0, upload(sources, tokens.device))


def _sources(sizes: Tensor, num_fed: Tensor) -> Tensor:
    """int64[N]: where each token's state lies, among B K first states and the states of the fed tokens behind them."""
    rows = torch.arange(sizes.numel()).repeat_interleave(sizes.flatten())
    place = torch.arange(len(rows)) - (sizes.flatten().cumsum(0) - sizes.flatten())[rows]
    fed_before = num_fed.flatten().cumsum(0) - num_fed.flatten()
    return torch.where(place == 0, rows, sizes.numel() + fed_before[rows] + place - 1)
