"""The two passes through the text model that have a gradient: the prompt pass and the completion pass.

Both feed packed tokens (``packing``) and hand their own attention to the layers. The prompt pass reads ``PromptInputs``
and computes the keys and values of each prompt once, differentiably (``PromptCache``); both the sampler (``decoder``)
and the completion pass read those. ``predicting_states`` runs the completion pass, all completions at once or some at a
time.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from lvad.policy.attention import TreeAttention
from lvad.policy.packing import Packing, completion_packing, prompt_packing, token_cells, upload
from lvad.policy.prompt_inputs import PromptInputs

ATTENTION = "lvad_tree"
"""The name under which transformers finds the attention of these passes."""


class PassAttention(Protocol):
    """The attention of one pass, which every layer of the text model calls."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """float[N, H, D] from q float[N, H, D], k and v float[N, G, D]."""
        ...


class PromptCache(NamedTuple):
    """The key-value cache of B packed prompts with S tokens in all, and what the later passes need beside it."""

    last: Tensor
    """float[B, E], the last hidden states, which predict the first tokens of completions."""
    keys: tuple[Tensor, ...]
    """Per layer float[S, G, D], after the rotary embedding."""
    values: tuple[Tensor, ...]
    """Per layer float[S, G, D]."""
    inputs: PromptInputs
    """What the prompt pass read."""
    starts: tuple[int, ...]
    """Position of the first token after each prompt; with M-RoPE it is not the length of the prompt."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each prompt."""
        return self.inputs.lengths


def prompt_pass(text_model: Any, inputs: PromptInputs) -> PromptCache:
    """Run B prompts through the text model and keep their keys and values."""
    embeds, lengths = inputs.embeds, inputs.lengths
    attention = _PromptAttention(prompt_packing(lengths, embeds.device))
    extras = {}
    if inputs.is_visual is not None:
        extras = {"visual_pos_masks": inputs.is_visual.unsqueeze(0), "deepstack_visual_embeds": list(inputs.deep)}
    hidden = _run(text_model, embeds, inputs.positions, attention, **extras)
    last = upload(torch.tensor(lengths).cumsum(0) - 1, embeds.device)
    keys, values = attention.pop_keys_values()
    starts = tuple(int(part.max()) + 1 for part in inputs.positions.split(lengths, 1))
    return PromptCache(hidden.index_select(0, last), keys, values, inputs, starts)


def completion_pass(
    text_model: Any, prompt_cache: PromptCache, embeds: Tensor, counts: Sequence[Sequence[int]]
) -> Tensor:
    """Run completions after their prompts: float[N, E] states from float[N, E] embeddings.

    Args:
        text_model: as in ``prompt_pass``.
        prompt_cache: the prompts.
        embeds: of the N fed tokens, in the order scene, completion, token.
        counts: B times K numbers of fed tokens.
    """
    starts = zip(prompt_cache.starts, counts, strict=True)
    positions = torch.cat([torch.arange(start, start + count) for start, row in starts for count in row])
    attention = _CompletionAttention(prompt_cache, completion_packing(counts, prompt_cache.lengths, embeds.device))
    # With M-RoPE a text token has the same position in time, height and width.
    return _run(text_model, embeds, positions.expand(len(prompt_cache.inputs.positions), -1), attention)


def _run(text_model: Any, embeds: Tensor, positions: Tensor, attention: PassAttention, **extras: Any) -> Tensor:
    position_ids = upload(positions, embeds.device)
    output = text_model(
        inputs_embeds=embeds.unsqueeze(0),
        # Transformers passes a mask of four dimensions on as it is, and builds none of its own. No layer reads it.
        attention_mask=embeds.new_zeros(1, 1, 1, 1),
        position_ids=position_ids if len(position_ids) == 1 else position_ids.unsqueeze(1),
        use_cache=False,
        tree=attention,  # layers pass it on to ``_attention``
        **extras,
    )
    return output.last_hidden_state[0]


class _PromptAttention:
    """Causal attention inside each prompt."""

    def __init__(self, packing: Packing) -> None:
        self.packing = packing
        self._kept: dict[int, tuple[Tensor, Tensor]] | None = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        if self._kept is not None:  # None once popped: gradient checkpointing runs the layers a second time
            self._kept[layer] = (k, v)
        return _tree_attention(self.packing, None, scale, q, k, v, None, None)

    def pop_keys_values(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Remove and return the keys and values of all layers.

        Gradient checkpointing keeps this object for its second forward. If the tensors stayed in it, the graph would
        hold its own tensors and would never be freed.
        """
        assert self._kept is not None
        kept = [self._kept[layer] for layer in sorted(self._kept)]
        self._kept = None
        return tuple(k for k, _ in kept), tuple(v for _, v in kept)


class _CompletionAttention:
    """Causal attention inside each completion, and full attention to its prompt."""

    def __init__(self, prompt_cache: PromptCache, packing: Packing) -> None:
        self.prompt_cache, self.packing = prompt_cache, packing
        self.prompts = prompt_packing(prompt_cache.lengths, prompt_cache.last.device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        prompt = self.prompt_cache.keys[layer], self.prompt_cache.values[layer]
        return _tree_attention(self.packing, self.prompts, scale, q, k, v, *prompt)


_tree_attention: Callable[..., Tensor] = TreeAttention.apply


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """The attention function that transformers calls in each layer; outside of these passes it is the stock one."""
    attention: PassAttention | None = options.pop("tree", None)
    if attention is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    # The batch is one row of packed tokens. Under autocast the rotary embedding widens q and k.
    q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    return attention.attend(module.layer_idx, q, k, v, options["scaling"]).unsqueeze(0), None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


Counts = Sequence[Sequence[int]]


def predicting_states(
    text_model: Any,
    embed: Callable[[Tensor], Tensor],
    prompt_cache: PromptCache,
    tokens: Tensor,
    counts: Counts,
    at_once: int | None,
) -> Tensor:
    """Compute the hidden states float[N, E] that predict each completion token, differentiably.

    The state of the last prompt token predicts the first token, the state of each token the next one. Rows are in the
    order scene, completion, token.

    Args:
        text_model: of the policy.
        embed: tokens to embeddings.
        prompt_cache: of the prompts.
        tokens: int64[B, K, T], the completions.
        counts: B times K numbers of their tokens, N in all.
        at_once: completions of a scene in one forward. The backward pass then runs each forward again, so that only
            the activations of one slice are in memory. None takes all.
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
        # Reentrant checkpointing would give no gradient to the prompts' keys: they lie inside a named tuple.
        parts.append(checkpoint(_states, *given, use_reentrant=False))
        owners.append(order[:, some].flatten()[token_cells(own, tokens.shape[2])])
    # The slices stand one after the other: back to the order scene, completion, token.
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
    hidden = completion_pass(text_model, prompt_cache, embed(tokens.flatten().index_select(0, fed)), num_fed.tolist())
    return torch.cat([first.to(hidden.dtype), hidden]).index_select(0, upload(sources, tokens.device))


def _sources(sizes: Tensor, num_fed: Tensor) -> Tensor:
    """int64[N], the state that predicts each token, among B K last states of prompts and then those of fed tokens."""
    rows = torch.arange(sizes.numel()).repeat_interleave(sizes.flatten())
    place = torch.arange(len(rows)) - (sizes.flatten().cumsum(0) - sizes.flatten())[rows]
    fed_before = num_fed.flatten().cumsum(0) - num_fed.flatten()
    return torch.where(place == 0, rows, sizes.numel() + fed_before[rows] + place - 1)
