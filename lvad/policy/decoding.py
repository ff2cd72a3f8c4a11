"""The loop that draws completions token by token, whatever model predicts them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lvad.ops import entropy, gather_logps
from lvad.policy.grammar import Walk
from lvad.policy.sampling import draw
from lvad.types import Rollouts


class Ending(NamedTuple):
    """How completions end."""

    end_id: int
    pad_id: int
    max_new_tokens: int


class Drawn(NamedTuple):
    """N completions."""

    tokens: Tensor
    """int64[N, T], the pad token after the end."""
    completion_mask: Tensor
    """bool[N, T], True on drawn tokens, the end included."""
    logps: Tensor
    """float[N, T], 0 where masked out."""
    entropies: Tensor
    """float[N, T], 0 where masked out."""
    is_truncated: Tensor
    """bool[N]."""


def draw_completions(
    hidden: Tensor,
    density: Callable[[Tensor, Walk | None], Tensor],
    advance: Callable[[Tensor], Tensor],
    ending: Ending,
    greedy: bool = False,
    walk: Walk | None = None,
    begin: Rollouts | None = None,
) -> Drawn:
    """Draw N completions.

    Args:
        hidden: float[N, D], the states that predict the first tokens.
        density: float[N, V] log-probabilities of the next token from the states, and where the grammar stands.
        advance: the next states float[N, D] after int64[N] tokens; not called after the last ones.
        ending: when to stop.
        greedy: take the most probable token.
        walk: where the grammar starts, if there is one.
        begin: N rows of tokens that every completion starts with, as B scenes times K; they are given and not drawn.
    """
    alive = torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)
    given = [] if begin is None else list(zip(*_steps_of(begin), strict=True))
    steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    while True:
        logps = density(hidden, walk)
        token = draw(logps, greedy)
        if len(steps) < len(given):
            given_token, is_given = given[len(steps)]
            token = given_token.where(is_given, token)
        token = token.where(alive, torch.full_like(token, ending.pad_id))
        steps.append((token, gather_logps(logps, token), entropy(logps), alive))
        alive = alive & (token != ending.end_id)
        if len(steps) == ending.max_new_tokens or not alive.any():
            break
        hidden = advance(token)
        walk = walk and walk.after(token)
    tokens, logps, entropies, mask = (torch.stack(column, 1) for column in zip(*steps, strict=True))
    return Drawn(tokens, mask, logps.where(mask, 0.0), entropies.where(mask, 0.0), alive)


def _steps_of(begin: Rollouts) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Per step the given tokens int64[N] and whether there is one, bool[N]."""
    return begin.tokens.flatten(0, 1).unbind(1), begin.completion_mask.flatten(0, 1).unbind(1)
