"""Completions that grow token by token behind prompts whose keys and values are read where they lie.

``TokenPass`` is the pass of one new token per row through a text model, without gradients: what sampling repeats. Its
values are those of transformers' own layers. In a small model, calls of modules and elementwise operations between the
products take as long as the products of a few rows; here a layer is four products and the least between them.

On a CPU a few rows cost what reading the weights costs. MKL lays the weights out anew in every call; oneDNN lays them
out once, in the order in which it reads them for that many rows: about twice as fast for 1 to 16 rows on the processor
of ``docs/performance.md``. The copy costs as much as four to eight tokens, by whether its memory is at hand. Since it
is made anyway, layers that multiply the same rows are joined in it, and adapters merged (``product``).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lvad.policy.adapters import is_lora_layer
from lvad.policy.attention import PartialAttention, attend, merge_outputs
from lvad.policy.grammar import GrammarStates
from lvad.policy.layers import rms_norm
from lvad.policy.packing import completion_packing, prompt_packing
from lvad.policy.passes import PromptCache
from lvad.policy.sampling import Sampling, log_density

_LARGE = 10**5  # entries; smaller weights stay in the cache, and nothing is to be gained

Product = Callable[[Tensor], Tensor]


@torch.no_grad()
def product(layers: Sequence[nn.Module], num_rows: int) -> Product:
    """What linear layers make of the same rows, side by side: float[R, N] from float[R, E], without gradients.

    Args:
        layers: ``nn.Linear``, or what stands in their place to adapt or pack their weights. Weights in full precision
            on the CPU are taken out of their layers, so the product is good until they change.
        num_rows: of most products; any other number gives the same values, at some other speed.
    """
    parts = [_weight_and_bias(layer) for layer in layers]
    copied = [part for part in parts if part is not None]
    if len(copied) < len(layers):
        return layers[0] if len(layers) == 1 else lambda rows: torch.cat([layer(rows) for layer in layers], -1)
    weight, bias = copied[0] if len(copied) == 1 else _joined(copied)
    if weight.dtype is not torch.float32 or weight.numel() < _LARGE or not torch.backends.mkldnn.is_available():
        return lambda rows: nn.functional.linear(rows, weight, bias)
    # The layout is oneDNN's own: nothing but its products may read this tensor. "none" is for no activation.
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, num_rows)
    return lambda rows: torch.ops.mkldnn._linear_pointwise(rows.contiguous(), laid_out, bias, "none", [], "")


def _weight_and_bias(layer: Any) -> tuple[Tensor, Tensor | None] | None:
    """With its adapters; None where the layer has to multiply by itself.

    So it does in half precision: a merged weight's rounding would swallow part of the adapters.
    """
    is_adapted = is_lora_layer(layer)
    # A forward of the instance itself, of a hook or a packed layer, is not the product of its weight.
    base = layer.base_layer if is_adapted else layer
    if type(base) is not nn.Linear or "forward" in vars(base) or not _is_whole(base.weight):
        return None
    if is_adapted and layer.merged:  # and unmerged by itself where adapters are off
        return None
    weight, bias = base.weight.detach(), None if base.bias is None else base.bias.detach()
    if is_adapted and not layer.disable_adapters:
        for name in layer.active_adapters:
            weight = weight + layer.get_delta_weight(name)
    return weight, bias


def _is_whole(weight: Tensor) -> bool:
    in_full = weight.dtype in (torch.float32, torch.float64)
    return weight.is_cpu and in_full and not torch.is_autocast_enabled("cpu")


def _joined(parts: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    weight = torch.cat([weight for weight, _ in parts])
    if all(bias is None for _, bias in parts):
        return weight, None
    return weight, torch.cat([weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in parts])


Attend = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]
"""float[R, H, D] from the layer's number, q float[R, H, D], k and v float[R, G, D], and the scale of the scores."""


Multiply = Callable[[Sequence[Any]], Product]
"""What linear layers make of the same rows, side by side."""


class TokenPass:
    """A text model with its weights laid out for sampling; good for as long as its products are.

    Args:
        text_model: of transformers, with Llama's layers or Qwen's; they may be adapted or packed.
        multiply: makes the products of its layers.
    """

    def __init__(self, text_model: Any, multiply: Multiply) -> None:
        self._layers = [_Layer(layer, multiply) for layer in text_model.layers]
        self._norm, self._rotary = text_model.norm, text_model.rotary_emb
        self._num_parts = num_position_parts(text_model)

    @torch.no_grad()
    def __call__(self, embeds: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """The states float[R, E] that predict the next tokens.

        Args:
            embeds: float[R, E] of the tokens.
            positions: int64[R] of the tokens.
            attend: keeps keys and values, and attends.
        """
        placed = positions.unsqueeze(0) if self._num_parts == 1 else positions.expand(self._num_parts, 1, -1)
        # Where positions have several parts these are the same for words, and so is any one of their turns.
        turns = (x.flatten(0, -3)[0] for x in self._rotary(embeds.unsqueeze(0), placed))
        cos, sin = (x.unsqueeze(1) for x in turns)
        # Half a head's numbers are turned against the other half: the sign of transformers' ``rotate_half`` is in sin.
        lower, upper = sin.chunk(2, -1)
        sin = torch.cat([-lower, upper], -1)
        hidden = embeds
        for layer in self._layers:
            hidden = layer.advance(hidden, cos, sin, attend)
        return rms_norm(hidden, self._norm.weight, self._norm.variance_epsilon)


def num_position_parts(text_model: Any) -> int:
    """3 where time, height and width turn a part of each head (M-RoPE), else 1."""
    return 3 if "mrope_section" in (text_model.config.rope_parameters or {}) else 1


class _Layer:
    def __init__(self, layer: Any, multiply: Multiply) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.index, self.scale, self.head_size = attention.layer_idx, attention.scaling, attention.head_dim
        self.num_keys = attention.config.num_key_value_heads
        self.num_queries = attention.config.num_attention_heads
        self.first_norm, self.second_norm = layer.input_layernorm, layer.post_attention_layernorm
        self.head_norms = [getattr(attention, name) for name in ("q_norm", "k_norm") if hasattr(attention, name)]
        self.qkv = multiply([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out = multiply([attention.o_proj])
        self.gate_up = multiply([mlp.gate_proj, mlp.up_proj])
        self.down, self.activation = multiply([mlp.down_proj]), mlp.act_fn

    def advance(self, hidden: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """float[R, E] from float[R, E] and the turns of the positions, float[R, 1, D]."""
        normed = rms_norm(hidden, self.first_norm.weight, self.first_norm.variance_epsilon)
        heads = self.qkv(normed).unflatten(-1, (-1, self.head_size))
        # Joined in the order q, k, v: the heads of q and k are turned together.
        turned, v = heads[:, : -self.num_keys], heads[:, -self.num_keys :]
        if self.head_norms:
            parts = zip(turned.split((self.num_queries, self.num_keys), 1), self.head_norms, strict=True)
            turned = torch.cat([rms_norm(part, norm.weight, norm.variance_epsilon) for part, norm in parts], 1)
        # Under autocast cos and sin are wider than the products.
        turned = (turned * cos).addcmul_(turned.roll(self.head_size // 2, -1), sin).to(v.dtype)
        q, k = turned[:, : self.num_queries], turned[:, self.num_queries :]
        hidden = hidden + self.out(attend(self.index, q, k, v, self.scale).flatten(1))
        normed = rms_norm(hidden, self.second_norm.weight, self.second_norm.variance_epsilon)
        gate, up = self.gate_up(normed).chunk(2, -1)
        return hidden + self.down(self.activation(gate) * up)


class Decoder:
    """R completions still alive, each with room of its own for its tokens' keys and values.

    Args:
        text_model: whose weights stay as they are for as long as the decoder is used.
        prompt_cache: B prompts.
        num_completions: K behind each, so that R = B K at first.
        room: tokens that each can be fed.
    """

    def __init__(self, text_model: Any, prompt_cache: PromptCache, num_completions: int, room: int) -> None:
        self.prompt_cache, self.room = prompt_cache, room
        batch, device = len(prompt_cache.lengths), prompt_cache.last.device
        self._scene = torch.arange(batch, device=device).repeat_interleave(num_completions)
        self._start = torch.tensor(prompt_cache.starts, device=device)
        self._read = TokenPass(text_model, partial(product, num_rows=self.num_alive))
        self._own: dict[int, tuple[Tensor, Tensor]] = {}
        self._num_fed = 0
        self._among: list[int] = []
        self._prompts: list[list[tuple[Tensor, Tensor]]] = []
        self._place()

    @property
    def num_alive(self) -> int:
        """R."""
        return len(self._scene)

    def advance(self, embeds: Tensor) -> Tensor:
        """The next states float[R, E], from the embeddings float[R, E] of the last tokens."""
        hidden = self._read(embeds, self._start[self._scene] + self._num_fed, self._attend)
        self._num_fed += 1
        return hidden

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the completions: int64[R'], ascending."""
        self._scene = self._scene[rows]
        for layer, kept in list(self._own.items()):
            like = kept[0][: len(rows), 0]  # one token's keys, for their number and shape
            for new, old in zip(self._make_room(layer, like), kept, strict=True):
                new[:, : self._num_fed] = old[rows, : self._num_fed]
        self._place()

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        own_k, own_v = self._own.get(layer) or self._make_room(layer, k)
        own_k[:, self._num_fed], own_v[:, self._num_fed] = k, v
        seen = self._num_fed + 1
        # One query, the last token, which sees all that its completion has: nothing is left to hide.
        own = attend(q.unsqueeze(1), own_k[:, :seen], own_v[:, :seen], scale, causal=False)
        groups = zip(self._packing.to_scene_grids(q), self._prompts[layer], strict=True)
        parts = [attend(queries, *keys, scale, causal=False) for queries, keys in groups]
        prompt = PartialAttention(
            *(self._packing.from_grids([x.flatten(0, 1) for x in column]) for column in zip(*parts, strict=True))
        )
        return merge_outputs(prompt, PartialAttention(*(x.squeeze(1) for x in own)))

    def _make_room(self, layer: int, k: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(k), self.room, *k.shape[1:])
        self._own[layer] = (k.new_empty(shape), k.new_empty(shape))
        return self._own[layer]

    def _place(self) -> None:
        counts = torch.bincount(self._scene, minlength=len(self.prompt_cache.lengths)).tolist()
        alive = [scene for scene, count in enumerate(counts) if count]
        device = self._scene.device
        if not self._prompts or 2 * len(alive) <= len(self._among):
            # Leaving prompts behind costs a copy of the others.
            self._among = alive
            prompts = prompt_packing(self.prompt_cache.lengths, device, alive)
            self._prompts = [
                list(zip(prompts.to_scene_grids(k.detach()), prompts.to_scene_grids(v.detach()), strict=True))
                for k, v in zip(self.prompt_cache.keys, self.prompt_cache.values, strict=True)
            ]
        is_alive = [[int(k < count) for k in range(max(counts))] for count in counts]
        self._packing = completion_packing(is_alive, self.prompt_cache.lengths, device, self._among)


class DensityDecoder:
    """A decoder with the head and the law: one token at a time, in the sampled density.

    Args:
        vlm: the transformers model whose text model the decoder reads.
        decoder: where the completions stand.
        sampling: the law.
        banned: bool[V], tokens that can never be drawn; a grammar has masks of its own.
    """

    def __init__(self, vlm: Any, decoder: Decoder, sampling: Sampling, banned: Tensor) -> None:
        self._embed, self._decoder = vlm.get_input_embeddings(), decoder
        self._head = product([vlm.lm_head], decoder.num_alive)
        self._sampling, self._banned = sampling, banned
        self.keep = decoder.keep

    def density(self, hidden: Tensor, grammar_states: GrammarStates | None) -> Tensor:
        """float[R, V], as of ``TokenDecoder``."""
        banned = grammar_states.banned(self._banned.device) if grammar_states else self._banned
        return log_density(self._head(hidden), self._sampling, banned)

    def advance(self, tokens: Tensor) -> Tensor:
        """float[R, D], as of ``TokenDecoder``."""
        return self._decoder.advance(self._embed(tokens))
