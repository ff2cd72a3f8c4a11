"""The two passes through the text model that have a gradient: the prompts, and given completions behind them.

Both feed flat rows (``layout``) and hand their own attention to the layers. So the prompts are computed once: the
first pass keeps their keys and values, differentiably, and both the sampler (``decoder``) and the second pass read
those.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from lvad.policy.attention import TreeAttention
from lvad.policy.layout import Layout, lay_out, lay_out_prompts, upload

ATTENTION = "lvad_tree"
"""The name under which transformers finds the attention of these passes."""


class Pass(Protocol):
    """What the layers of the text model call for attention."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """float[N, H, D] from q float[N, H, D], k and v float[N, G, D]."""
        ...


class PromptInputs(NamedTuple):
    """What the text model takes of B prompts with S tokens in all, one after the other."""

    embeds: Tensor
    """float[S, E], visual tokens in place."""
    lengths: tuple[int, ...]
    """Tokens of each prompt."""
    positions: Tensor
    """int64[A, S] on the CPU; A = 1, or 3 where time, height and width turn a part of each head."""
    deep: tuple[Tensor, ...] = ()
    """float[V, E] each, added to the hidden states of the V visual tokens behind the first layers (DeepStack)."""
    is_visual: Tensor | None = None
    """bool[S]; None where nothing is added."""


class PromptCache(NamedTuple):
    """What the text model keeps of B prompts with S tokens in all."""

    last: Tensor
    """float[B, E], the states that predict the first tokens."""
    keys: tuple[Tensor, ...]
    """Per layer float[S, G, D], positions applied."""
    values: tuple[Tensor, ...]
    """Per layer float[S, G, D]."""
    inputs: PromptInputs
    """Of the prompts."""
    starts: tuple[int, ...]
    """Position of the first token behind each prompt; where positions have several parts, not its length."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each prompt."""
        return self.inputs.lengths


def read_prompts(text_model: Any, inputs: PromptInputs) -> PromptCache:
    """Run B prompts through the text model."""
    embeds, lengths = inputs.embeds, inputs.lengths
    own = _Prompts(lay_out_prompts(lengths, embeds.device))
    extras = {}
    if inputs.is_visual is not None:
        extras = {"visual_pos_masks": inputs.is_visual.unsqueeze(0), "deepstack_visual_embeds": list(inputs.deep)}
    hidden = _run(text_model, embeds, inputs.positions, own, **extras)
    last = upload(torch.tensor(lengths).cumsum(0) - 1, embeds.device)
    keys, values = own.take()
    starts = tuple(int(part.max()) + 1 for part in inputs.positions.split(lengths, 1))
    return PromptCache(hidden.index_select(0, last), keys, values, inputs, starts)


def read_completions(
    text_model: Any, prompt_cache: PromptCache, embeds: Tensor, counts: Sequence[Sequence[int]]
) -> Tensor:
    """Run completions behind their prompts: float[N, E] states from float[N, E] embeddings.

    Args:
        text_model: as of ``read_prompts``.
        prompt_cache: the prompts.
        embeds: of the N fed tokens, in the order scene, completion, token.
        counts: B times K numbers of fed tokens.
    """
    starts = zip(prompt_cache.starts, counts, strict=True)
    positions = torch.cat([torch.arange(start, start + count) for start, row in starts for count in row])
    own = _Completions(prompt_cache, lay_out(counts, prompt_cache.lengths, embeds.device))
    # Words have the same position in all parts.
    return _run(text_model, embeds, positions.expand(len(prompt_cache.inputs.positions), -1), own)


def _run(text_model: Any, embeds: Tensor, positions: Tensor, own: Pass, **extras: Any) -> Tensor:
    placed = upload(positions, embeds.device)
    output = text_model(
        inputs_embeds=embeds.unsqueeze(0),
        # Four dimensions: transformers passes such a mask on as it is, and builds none of its own.
        attention_mask=embeds.new_zeros(1, 1, 1, 1),
        position_ids=placed if len(placed) == 1 else placed.unsqueeze(1),
        use_cache=False,
        tree=own,
        **extras,
    )
    return output.last_hidden_state[0]


class _Prompts:
    """Causal attention inside each prompt."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._kept: dict[int, tuple[Tensor, Tensor]] | None = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        if self._kept is not None:
            self._kept[layer] = (k, v)
        return _tree_attention(self.layout, None, scale, q, k, v, None, None)

    def take(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Keys and values per layer, once.

        They leave this object because gradient checkpointing keeps it for its second forward, and a graph that holds
        its own tensors is never freed.
        """
        assert self._kept is not None
        kept = [self._kept[layer] for layer in sorted(self._kept)]
        self._kept = None
        return tuple(k for k, _ in kept), tuple(v for _, v in kept)


class _Completions:
    """Attention of given completions to themselves and their prompts."""

    def __init__(self, prompt_cache: PromptCache, layout: Layout) -> None:
        self.prompt_cache, self.layout = prompt_cache, layout
        self.prompts = lay_out_prompts(prompt_cache.lengths, prompt_cache.last.device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        prompt = self.prompt_cache.keys[layer], self.prompt_cache.values[layer]
        return _tree_attention(self.layout, self.prompts, scale, q, k, v, *prompt)


_tree_attention: Callable[..., Tensor] = TreeAttention.apply


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """What transformers calls in each layer; outside of these passes it is the stock one."""
    own: Pass | None = options.pop("tree", None)
    if own is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    # Under autocast the rotary embedding widens q and k.
    q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    return own.attend(module.layer_idx, q, k, v, options["scaling"]).unsqueeze(0), None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
