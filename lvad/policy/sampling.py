"""The density that tokens are drawn from, and that the policy gradient differentiates.

Temperature, top-k, top-p, banned tokens and an answer grammar change the law of the samples. A gradient taken in any
other density (peers use the untruncated one) weights the samples wrongly, so both sampler and gradient pass call
``log_density``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


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


def draw(logps: Tensor, uniform: Tensor | None) -> Tensor:
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
