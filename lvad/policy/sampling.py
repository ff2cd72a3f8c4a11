"""The sampler: the distribution of the next token, which the policy gradient differentiates, and the sampling loop.

Temperature, top-k, top-p, banned tokens and an answer grammar change the distribution that completions are drawn from.
The gradient has to be taken in that same distribution (other trainers use the untruncated one, which weights the
samples wrongly), so both the sampler and the completion pass call ``next_token_logps``.
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
        temperature: divides the logits; 1 leaves the model's own distribution. The paper used 1.5.
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
        """The same options without top-k and top-p, so that every token has a probability."""
        return Sampling(self.temperature, max_new_tokens=self.max_new_tokens)


def next_token_logps(logits: Tensor, sampling: Sampling, banned: Tensor, always_keep: Tensor | None = None) -> Tensor:
    """Compute log-probabilities of the next token in the sampled distribution: bans, temperature, top-k, then top-p.

    Args:
        logits: float[..., V].
        sampling: temperature, top-k and top-p.
        banned: bool[V], True on tokens that can never be drawn (image and other special tokens), or bool[..., V] where
            a grammar bans other tokens at each position; every row leaves at least one.
        always_keep: int64[...], tokens that truncation must not remove. In the completion pass these are the drawn
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
    """Draw one token per row by inverse transform sampling: int64[R].

    Args:
        logps: float[R, V], normalised log-probabilities.
        uniform: float[R] in [0, 1), one random number per row; None takes the most probable token.
    """
    if uniform is None:
        return logps.argmax(-1)
    probs = logps.exp()
    cumulative = probs.cumsum(-1)
    # A parallel cumulative sum may round so that the search ends at an impossible token, or at none.
    is_beyond = (cumulative > uniform.unsqueeze(-1) * cumulative[:, -1:]) & (probs > 0)
    return torch.where(is_beyond.any(-1), is_beyond.int().argmax(-1), probs.argmax(-1))


_MAX_ALIVE = 7 / 8  # of the rows: dropping fewer than an eighth of them costs more (a copy of the cache) than it saves


class StopCriteria(NamedTuple):
    """End tokens, pad token and length limit."""

    end_ids: tuple[int, ...]
    pad_id: int
    max_new_tokens: int


class Samples(NamedTuple):
    """R sampled completions."""

    tokens: Tensor
    """int64[R, T], the pad token after the end."""
    completion_mask: Tensor
    """bool[R, T], True on drawn tokens, the end included."""
    logps: Tensor
    """float[R, T], 0 where masked out."""
    entropies: Tensor
    """float[R, T], 0 where masked out."""
    is_truncated: Tensor
    """bool[R], True where ``max_new_tokens`` came before an end token."""


class TokenDecoder(Protocol):
    """A model that samples R completions, one token at a time."""

    def next_logps(self, hidden: Tensor, grammar_states: GrammarStates | None) -> Tensor:
        """Log-probabilities float[R, V] of the next tokens, from the hidden states and the grammar's states."""
        ...

    def advance(self, tokens: Tensor) -> Tensor:
        """Feed the tokens int64[R] and compute the next hidden states float[R, E]."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Drop all completions but those of some rows: int64[R'], ascending."""
        ...


def sample_completions(
    hidden: Tensor,
    decoder: TokenDecoder,
    stop: StopCriteria,
    greedy: bool = False,
    grammar_states: GrammarStates | None = None,
    begin: Rollouts | None = None,
) -> Samples:
    """Sample R completions; those that have ended leave the decoder's batch.

    Each step takes one random number per completion, ended or not, so that no completion depends on when others end.

    Args:
        hidden: float[R, E], the hidden states that predict the first tokens.
        decoder: predicts the next tokens.
        stop: end tokens, pad token and length limit.
        greedy: take the most probable token.
        grammar_states: the initial states of a grammar, if there is one.
        begin: tokens that the R = B K completions start with; they are given and not drawn.
    """
    buffer = _CompletionBuffer(len(hidden), hidden.device, stop)
    given = [] if begin is None else _given_tokens(begin)
    rows = torch.arange(len(hidden), device=hidden.device)
    for step in range(stop.max_new_tokens):
        logps = decoder.next_logps(hidden, grammar_states)
        uniform = None if greedy else torch.rand(buffer.size, device=hidden.device)[rows]
        token = sample_tokens(logps, uniform)
        token = given[step].replace_in(token, rows) if step < len(given) else token
        token = buffer.write(rows, token, logps)
        alive = buffer.alive[rows]
        if step + 1 == stop.max_new_tokens or not alive.any():
            break
        if alive.sum() <= _MAX_ALIVE * len(rows):
            stay = alive.nonzero().squeeze(1)
            rows, token, grammar_states = rows[stay], token[stay], grammar_states and grammar_states.pick(stay.tolist())
            decoder.keep(stay)
        hidden = decoder.advance(token)
        grammar_states = grammar_states and grammar_states.after(token)
    return buffer.samples()


class _CompletionBuffer:
    """The tokens of R completions while they are sampled, one column per step."""

    def __init__(self, size: int, device: torch.device, stop: StopCriteria) -> None:
        self.size, self.stop = size, stop
        self.alive = torch.ones(size, dtype=torch.bool, device=device)
        self._end_ids = torch.tensor(stop.end_ids, device=device)
        self._steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def write(self, rows: Tensor, token: Tensor, logps: Tensor) -> Tensor:
        """Add one token to some rows, or the pad token where a row has ended, and return what was added."""
        token = token.where(self.alive[rows], torch.full_like(token, self.stop.pad_id))

        def column(values: Tensor, empty: float) -> Tensor:
            return values.new_full((self.size,), empty).scatter(0, rows, values)

        step = (column(token, self.stop.pad_id), column(gather_logps(logps, token), 0), column(entropy(logps), 0))
        self._steps.append((*step, self.alive))
        self.alive = self.alive & (step[0].unsqueeze(1) != self._end_ids).all(1)
        return token

    def samples(self) -> Samples:
        """Stack the columns."""
        tokens, logps, entropies, mask = (torch.stack(column, 1) for column in zip(*self._steps, strict=True))
        return Samples(tokens, mask, logps.where(mask, 0.0), entropies.where(mask, 0.0), self.alive)


class _GivenTokens(NamedTuple):
    """The tokens of one step that ``begin`` gives instead of the sampler."""

    tokens: Tensor
    """int64[R]."""
    is_given: Tensor
    """bool[R]."""

    def replace_in(self, drawn: Tensor, rows: Tensor) -> Tensor:
        """Replace the drawn tokens int64[R'] of some rows by the given ones, where there are any."""
        return self.tokens[rows].where(self.is_given[rows], drawn)


def _given_tokens(begin: Rollouts) -> list[_GivenTokens]:
    """Split given tokens into steps."""
    columns = (x.flatten(0, 1).unbind(1) for x in (begin.tokens, begin.completion_mask))
    return [_GivenTokens(*step) for step in zip(*columns, strict=True)]
