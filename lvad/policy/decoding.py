"""The loop that draws completions token by token, whatever model predicts them."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lvad.ops import entropy, gather_logps
from lvad.policy.grammar import GrammarStates
from lvad.policy.sampling import draw
from lvad.types import Rollouts

_CROWDED = 7 / 8  # making room costs a copy of the completions' keys and values


class StopCriteria(NamedTuple):
    """How completions end."""

    end_ids: tuple[int, ...]
    pad_id: int
    max_new_tokens: int


class Samples(NamedTuple):
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


class TokenDecoder(Protocol):
    """A model that R completions are drawn from, one token at a time."""

    def density(self, hidden: Tensor, grammar_states: GrammarStates | None) -> Tensor:
        """float[R, V] log-probabilities of the next tokens from the states, and where the grammar stands."""
        ...

    def advance(self, tokens: Tensor) -> Tensor:
        """The next states float[R, D] after int64[R] tokens; not called after the last ones."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the completions: int64[R'], ascending."""
        ...


def sample_completions(
    hidden: Tensor,
    model: TokenDecoder,
    stop: StopCriteria,
    greedy: bool = False,
    grammar_states: GrammarStates | None = None,
    begin: Rollouts | None = None,
) -> Samples:
    """Draw N completions; those that have ended leave the model's batch.

    Each token costs one random number per completion, ended or not: none depends on when the others end.

    Args:
        hidden: float[N, D], the states that predict the first tokens.
        model: what comes next.
        stop: when to stop.
        greedy: take the most probable token.
        grammar_states: where the grammar starts, if there is one.
        begin: N rows of tokens that every completion starts with, as B scenes times K; they are given and not drawn.
    """
    drawn = _CompletionBuffer(len(hidden), hidden.device, stop)
    given = [] if begin is None else list(zip(*_given_tokens(begin), strict=True))
    rows = torch.arange(len(hidden), device=hidden.device)
    for step in range(stop.max_new_tokens):
        logps = model.density(hidden, grammar_states)
        uniform = None if greedy else torch.rand(drawn.size, device=hidden.device)[rows]
        token = draw(logps, uniform)
        if step < len(given):
            given_token, is_given = given[step]
            token = given_token[rows].where(is_given[rows], token)
        token = drawn.write(rows, token, logps)
        alive = drawn.alive[rows]
        if step + 1 == stop.max_new_tokens or not alive.any():
            break
        if alive.sum() <= _CROWDED * len(rows):
            stay = alive.nonzero().squeeze(1)
            rows, token, grammar_states = rows[stay], token[stay], grammar_states and grammar_states.pick(stay.tolist())
            model.keep(stay)
        hidden = model.advance(token)
        grammar_states = grammar_states and grammar_states.after(token)
    return drawn.finished()


class _CompletionBuffer:
    """N completions being written."""

    def __init__(self, size: int, device: torch.device, stop: StopCriteria) -> None:
        self.size, self.stop = size, stop
        self.alive = torch.ones(size, dtype=torch.bool, device=device)
        self._end_ids = torch.tensor(stop.end_ids, device=device)
        self._steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def write(self, rows: Tensor, token: Tensor, logps: Tensor) -> Tensor:
        """Add one token to some rows; the pad token where a row has ended."""
        token = token.where(self.alive[rows], torch.full_like(token, self.stop.pad_id))

        def column(values: Tensor, empty: float) -> Tensor:
            return values.new_full((self.size,), empty).scatter(0, rows, values)

        step = (column(token, self.stop.pad_id), column(gather_logps(logps, token), 0), column(entropy(logps), 0))
        self._steps.append((*step, self.alive))
        self.alive = self.alive & (step[0].unsqueeze(1) != self._end_ids).all(1)
        return token

    def finished(self) -> Samples:
        tokens, logps, entropies, mask = (torch.stack(column, 1) for column in zip(*self._steps, strict=True))
        return Samples(tokens, mask, logps.where(mask, 0.0), entropies.where(mask, 0.0), self.alive)


def _given_tokens(begin: Rollouts) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Per step the given tokens int64[N] and whether there is one, bool[N]."""
    return begin.tokens.flatten(0, 1).unbind(1), begin.completion_mask.flatten(0, 1).unbind(1)
