"""Passes through the text model that have a gradient: the prompts, and given completions behind them.

Both feed flat rows (``layout``) and hand their own attention to the layers. So the prompts are computed once: the
first pass keeps their keys and values, differentiably (``PromptCache``), and both the sampler (``decoder``) and the
second pass read those. ``predicting_states`` runs the second pass, all completions at once or some at a time.
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
from lvad.policy.families.family import Family, WrittenFrame
from lvad.policy.layers import Lookup
from lvad.policy.layout import Layout, lay_out, lay_out_prompts, token_cells, upload

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
        if self._kept is not None:  # None once taken: gradient checkpointing runs the layers a second time
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
    # A batch of one, since rows are flat. Under autocast the rotary embedding widens q and k.
    q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    return own.attend(module.layer_idx, q, k, v, options["scaling"]).unsqueeze(0), None


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
        # The reentrant kind differentiates arguments that are tensors themselves; the prompts' keys lie inside of one.
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
    hidden = read_completions(text_model, prompt_cache, embed(tokens.flatten().index_select(0, fed)), num_fed.tolist())
    return torch.cat([first.to(hidden.dtype), hidden]).index_select(0, upload(sources, tokens.device))


def _sources(sizes: Tensor, num_fed: Tensor) -> Tensor:
    """int64[N]: where each token's state lies, among B K first states and the states of the fed tokens behind them."""
    rows = torch.arange(sizes.numel()).repeat_interleave(sizes.flatten())
    place = torch.arange(len(rows)) - (sizes.flatten().cumsum(0) - sizes.flatten())[rows]
    fed_before = num_fed.flatten().cumsum(0) - num_fed.flatten()
    return torch.where(place == 0, rows, sizes.numel() + fed_before[rows] + place - 1)


class ScenePrompt(NamedTuple):
    """The prompt of one scene."""

    scene: str
    ids: Tensor
    """int64[P] on the CPU."""
    num_frames: int
    frame: WrittenFrame
    """How each of its frames stands in it."""
    features: Tensor
    """float[V, L E], its visual tokens as of ``FrameEncoder.encode``."""


def prompt_inputs(vlm: Any, family: Family, lookup: Lookup, prompts: Sequence[ScenePrompt]) -> PromptInputs:
    """B prompts one after the other.

    Raises:
        ValueError: if visual tokens and their places in a prompt do not match in number.
    """
    size = vlm.config.text_config.hidden_size
    for asked in prompts:
        places, (found, numbers) = int((asked.ids == vlm.config.image_token_id).sum()), asked.features.shape
        if found != places or numbers % size:
            problem = f"{found} visual tokens for {places} places in the prompt, of {numbers} and {size} numbers each"
            raise ValueError(f"{asked.scene}: {problem}")
    ids = torch.cat([asked.ids for asked in prompts])
    is_visual = ids == vlm.config.image_token_id
    embeds = lookup(upload(ids, vlm.device))
    first, *deep = torch.cat([asked.features for asked in prompts]).to(embeds.dtype).split(size, -1)
    embeds = embeds.index_copy(0, upload(is_visual.nonzero().squeeze(1), vlm.device), first)
    positions = torch.cat([family.positions(vlm, asked.ids, asked.num_frames, asked.frame) for asked in prompts], 1)
    lengths = tuple(len(asked.ids) for asked in prompts)
    return PromptInputs(embeds, lengths, positions, tuple(deep), upload(is_visual, vlm.device) if deep else None)
