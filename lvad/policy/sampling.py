"""How completions are sampled: the density of the next token, which the policy gradient differentiates, and the loop.

Temperature, top-k, top-p, banned tokens and an answer grammar change the law of the samples. A gradient taken in any
other density (peers use the untruncated one) weights the samples wrongly, so both sampler and gradient pass call
``log_density``.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lvad.ops import entropy, gather_logps
from lvad.policy.grammar import GrammarStates
from lvad.types import Rollouts


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Args:
        temperature: divides the logits; 1 leaves the model's own law. The paper used 1.5.
        top_k: keep the k most probable tokens; 0 keeps all. The paper used 50.
        top_p: keep the smallest set of most probable tokens with at least this mass. The paper used 0.95.
        max_new_tokens: a completion that has not ended by then is cut and counted as truncated.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int = 48

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be >= 0 (0 keeps all tokens), got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be >= 1, got {self.max_new_tokens}")

    def without_truncation(self) -> "Sampling":
        """The same law before top-k and top-p, in which every token has a probability."""
        return Sampling(self.temperature, max_new_tokens=self.max_new_tokens)


def log_density(logits: Tensor, sampling: Sampling, banned: Tensor, always_keep: Tensor | None = None) -> Tensor:
    """Log-probabilities of the next token in the sampled density: bans, temperature, top-k, then top-p.

    Args:
        logits: float[..., V].
        sampling: the law.
        banned: bool[V], True on tokens that can never be drawn (image and other special tokens), or bool[..., V] where
            a grammar bans other tokens at each place; every row leaves at least one.
        always_keep: int64[...], tokens that truncation must not remove. In the gradient pass these are the drawn
            tokens: rounding between two kernels may move a token across the edge of the kept set, and a drawn token
            was by definition inside it.

    Returns:
        float32[..., V] (float64 for float64 logits), normalised, -inf outside the kept set.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / sampling.temperature
    logits = logits.masked_fill(banned, -torch.inf)
    kept = _kept(logits.detach(), sampling)
    if kept is not None:
        if always_keep is not None:
            kept = kept.scatter(-1, always_keep.unsqueeze(-1), True)
        logits = logits.masked_fill(~kept, -torch.inf)
    return logits.log_softmax(-1)


def _kept(logits: Tensor, sampling: Sampling) -> Tensor | None:
    """bool[..., V], the tokens that truncation keeps; None where it keeps all."""
    vocabulary = logits.shape[-1]
    if not 0 < sampling.top_k < vocabulary and sampling.top_p >= 1:
        return None
    num_kept = min(sampling.top_k, vocabulary) if sampling.top_k else vocabulary
    values, tokens = logits.topk(num_kept, -1)
    if sampling.top_p < 1:
        probs = values.softmax(-1)
        # A token stays while the mass before it is under top_p, so the first token always stays.
        values = values.masked_fill(probs.cumsum(-1) - probs >= sampling.top_p, -torch.inf)
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, tokens, ~values.isneginf())


def sample_tokens(logps: Tensor, uniform: Tensor | None) -> Tensor:
    """One token per row of normalised log-probabilities, by inversion: int64[N].

    Args:
        logps: float[N, V].
        uniform: float[N] in [0, 1), one random number per row; None takes the most probable token.
    """
    if uniform is None:
        return logps.argmax(-1)
    probs = logps.exp()
    cumulative = probs.cumsum(-1)
    # Sums in parallel may round so that an impossible token seems to be next, or none.
    is_beyond = (cumulative > uniform.unsqueeze(-1) * cumulative[:, -1:]) & (probs > 0)
    return torch.where(is_beyond.any(-1), is_beyond.int().argmax(-1), probs.argmax(-1))


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
    given = [] if begin is None else _given_tokens(begin)
    rows = torch.arange(len(hidden), device=hidden.device)
    for step in range(stop.max_new_tokens):
        logps = model.density(hidden, grammar_states)
        uniform = None if greedy else torch.rand(drawn.size, device=hidden.device)[rows]
        token = sample_tokens(logps, uniform)
        token = drawn.write(rows, given[step].over(token, rows) if step < len(given) else token, logps)
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


class _GivenTokens(NamedTuple):
    """The tokens of one step that are given and not drawn."""

    tokens: Tensor
    """int64[N]."""
    is_given: Tensor
    """bool[N]."""

    def over(self, drawn: Tensor, rows: Tensor) -> Tensor:
        """The given tokens of some rows, and the drawn ones int64[R] where none is given."""
        return self.tokens[rows].where(self.is_given[rows], drawn)


def _given_tokens(begin: Rollouts) -> list[_GivenTokens]:
    """The given tokens of each step."""
    columns = (x.flatten(0, 1).unbind(1) for x in (begin.tokens, begin.completion_mask))
    return [_GivenTokens(*step) for step in zip(*columns, strict=True)]
