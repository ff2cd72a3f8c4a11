"""The three passes through the text model: the prompts, given completions behind them, and one token at a time.

Every pass feeds flat rows (``layout``) and hands its own attention to the layers. So the prompts are computed once:
the first pass keeps their keys and values, differentiably, and both the sampler and the gradient pass read those.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from lvad.policy.attention import Part, TreeAttention, attend, merge
from lvad.policy.layout import Layout, lay_out

ATTENTION = "lvad_tree"
"""The name under which transformers finds the attention of these passes."""


class Pass(Protocol):
    """What the layers of the text model call for attention."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """float[N, H, D] from q float[N, H, D], k and v float[N, G, D]."""
        ...


class Trunk(NamedTuple):
    """What the text model keeps of B prompts with S tokens in all."""

    last: Tensor
    """float[B, E], the states that predict the first tokens."""
    keys: tuple[Tensor, ...]
    """Per layer float[S, G, D], positions applied."""
    values: tuple[Tensor, ...]
    """Per layer float[S, G, D]."""
    lengths: tuple[int, ...]
    """Tokens of each prompt."""


def read_prompts(text_model: Any, embeds: Tensor, lengths: tuple[int, ...]) -> Trunk:
    """Run B prompts, float[S, E] one after the other, through the text model."""
    own = _Prompts(_prompt_layout(lengths, embeds.device))
    positions = torch.cat([torch.arange(n, device=embeds.device) for n in lengths])
    hidden = _run(text_model, embeds, positions, own)
    last = torch.tensor(lengths, device=embeds.device).cumsum(0) - 1
    keys, values = own.take()
    return Trunk(hidden[last], keys, values, lengths)


def read_completions(text_model: Any, trunk: Trunk, embeds: Tensor, is_fed: Tensor) -> Tensor:
    """Run completions behind their prompts: float[N, E] states from float[N, E] embeddings.

    Args:
        text_model: as of ``read_prompts``.
        trunk: the prompts.
        embeds: of the N fed tokens.
        is_fed: bool[B, K, T], which tokens those are.
    """
    lengths = torch.tensor(trunk.lengths, device=is_fed.device)
    positions = (lengths[:, None, None] + torch.arange(is_fed.shape[2], device=is_fed.device)).expand(is_fed.shape)
    return _run(text_model, embeds, positions[is_fed], _Completions(trunk, lay_out(is_fed, trunk.lengths)))


def _run(text_model: Any, embeds: Tensor, positions: Tensor, own: Pass) -> Tensor:
    output = text_model(
        inputs_embeds=embeds.unsqueeze(0),
        # Four dimensions: transformers passes such a mask on as it is, and builds none of its own.
        attention_mask=embeds.new_zeros(1, 1, 1, 1),
        position_ids=positions.unsqueeze(0),
        use_cache=False,
        tree=own,
    )
    return output.last_hidden_state[0]


def _prompt_layout(lengths: tuple[int, ...], device: torch.device, among: list[int] | None = None) -> Layout:
    is_token = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return lay_out(is_token.unsqueeze(1).to(device), lengths, among)


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

    def __init__(self, trunk: Trunk, layout: Layout) -> None:
        self.trunk, self.layout = trunk, layout
        self.prompts = _prompt_layout(trunk.lengths, trunk.last.device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        prompt = self.trunk.keys[layer], self.trunk.values[layer]
        return _tree_attention(self.layout, self.prompts, scale, q, k, v, *prompt)


_tree_attention: Callable[..., Tensor] = TreeAttention.apply


class Decoder:
    """Completions that grow token by token, R of them still alive.

    The prompts' keys and values are read where they lie; each completion has room of its own for its tokens.
    """

    def __init__(self, text_model: Any, trunk: Trunk, num_completions: int, room: int) -> None:
        self.text_model, self.trunk, self.room = text_model, trunk, room
        batch, device = len(trunk.lengths), trunk.last.device
        self._scene = torch.arange(batch, device=device).repeat_interleave(num_completions)
        self._length = torch.tensor(trunk.lengths, device=device)
        self._own: dict[int, tuple[Tensor, Tensor]] = {}
        self._num_fed = 0
        self._among: list[int] = []
        self._prompts: list[list[tuple[Tensor, Tensor]]] = []
        self._place()

    def advance(self, embeds: Tensor) -> Tensor:
        """The next states float[R, E], from the embeddings float[R, E] of the last tokens."""
        positions = self._length[self._scene] + self._num_fed
        hidden = _run(self.text_model, embeds, positions, self)
        self._num_fed += 1
        return hidden

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the completions: int64[R'], ascending."""
        self._scene = self._scene[rows]
        for layer, kept in list(self._own.items()):
            for new, old in zip(self._make_room(layer, kept[0][: len(rows), 0]), kept, strict=True):
                new[:, : self._num_fed] = old[rows, : self._num_fed]
        self._place()

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Attention of one new token per completion; its key and value are kept."""
        own_k, own_v = self._own.get(layer) or self._make_room(layer, k)
        own_k[:, self._num_fed], own_v[:, self._num_fed] = k, v
        seen = self._num_fed + 1
        own = attend(q.unsqueeze(1), own_k[:, :seen], own_v[:, :seen], scale, causal=False)
        groups = zip(self._layout.split_scenes(q), self._prompts[layer], strict=True)
        parts = [attend(queries, *keys, scale, causal=False) for queries, keys in groups]
        prompt = Part(*(self._layout.join([x.flatten(0, 1) for x in column]) for column in zip(*parts, strict=True)))
        return merge(prompt, Part(*(x.squeeze(1) for x in own))).out

    def _make_room(self, layer: int, k: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(k), self.room, *k.shape[1:])
        self._own[layer] = (k.new_empty(shape), k.new_empty(shape))
        return self._own[layer]

    def _place(self) -> None:
        counts = torch.bincount(self._scene, minlength=len(self.trunk.lengths))
        is_alive = torch.arange(int(counts.max()), device=counts.device) < counts.unsqueeze(1)
        alive = counts.nonzero().squeeze(1).tolist()
        if not self._prompts or 2 * len(alive) <= len(self._among):
            # Leaving prompts behind costs a copy of the others.
            self._among = alive
            prompts = _prompt_layout(self.trunk.lengths, self._scene.device, alive)
            self._prompts = [
                list(zip(prompts.split_scenes(k.detach()), prompts.split_scenes(v.detach()), strict=True))
                for k, v in zip(self.trunk.keys, self.trunk.values, strict=True)
            ]
        self._layout = lay_out(is_alive.unsqueeze(2), self.trunk.lengths, self._among)


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
