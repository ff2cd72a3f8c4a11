"""Decoding without gradients: one new token for each completion, after prompts whose keys and values are shared.

``TokenPass`` is the forward pass of one new token per row, which sampling repeats. Its values are those of
transformers' own layers. In a small model, module calls and elementwise operations take as long as the matrix products
of a few rows; here a layer is four matrix products and as little as possible between them.

On a CPU a few rows cost what reading the weights costs. MKL reorders the weights in every call; oneDNN reorders them
once, for a given number of rows: about twice as fast for 1 to 16 rows on the processor of ``docs/performance.md``. The
reordered copy costs as much as four to eight tokens. Since a copy is made anyway, layers that read the same rows are
fused in it, and adapters are merged into it (``fused_linear``).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lvad.policy.adapters import is_lora_layer
from lvad.policy.attention import PartialAttention, attend, merge_outputs
from lvad.policy.autograd_functions import rms_norm
from lvad.policy.grammar import GrammarStates
from lvad.policy.packing import Packing, completion_packing, prompt_packing
from lvad.policy.passes import PromptCache
from lvad.policy.sampling import Sampling, next_token_logps

_LARGE = 10**5  # entries; smaller weights stay in the processor's cache, where reordering gains nothing

FusedLinear = Callable[[Tensor], Tensor]
"""The outputs float[R, outputs] of several linear layers side by side, from the same rows float[R, E]."""
FuseLayers = Callable[[Sequence[Any]], FusedLinear]
"""Fuses linear layers that read the same rows."""


@torch.no_grad()
def fused_linear(layers: Sequence[nn.Module], num_rows: int) -> FusedLinear:
    """Fuse linear layers that read the same rows into one matrix product, without gradients.

    Args:
        layers: ``nn.Linear``, adapted or quantised ones too. Weights in full precision on the CPU are copied, so the
            result is valid until they change.
        num_rows: the number of rows R to be fast for; any other number gives the same values.
    """
    parts = [_weight_and_bias(layer) for layer in layers]
    copied = [part for part in parts if part is not None]
    if len(copied) < len(layers):
        return layers[0] if len(layers) == 1 else lambda rows: torch.cat([layer(rows) for layer in layers], -1)
    weight, bias = copied[0] if len(copied) == 1 else _concatenated(copied)
    if weight.dtype is not torch.float32 or weight.numel() < _LARGE or not torch.backends.mkldnn.is_available():
        return lambda rows: nn.functional.linear(rows, weight, bias)
    # The order of the entries is oneDNN's own: only its products may read this tensor. "none" is for no activation.
    reordered = torch.ops.mkldnn._reorder_linear_weight(weight, num_rows)
    return lambda rows: torch.ops.mkldnn._linear_pointwise(rows.contiguous(), reordered, bias, "none", [], "")


def _weight_and_bias(layer: Any) -> tuple[Tensor, Tensor | None] | None:
    """Weight and bias with the adapters merged; None where the layer has to be called instead.

    In half precision it has to be: rounding a merged weight would lose part of the adapters.
    """
    is_adapted = is_lora_layer(layer)
    # An instance with a forward of its own (a hook, a quantised layer) does more than multiply by its weight.
    base = layer.base_layer if is_adapted else layer
    if type(base) is not nn.Linear or "forward" in vars(base) or not _is_full_precision(base.weight):
        return None
    if is_adapted and layer.merged:  # such a layer unmerges itself when its adapters are switched off
        return None
    weight, bias = base.weight.detach(), None if base.bias is None else base.bias.detach()
    if is_adapted and not layer.disable_adapters:
        for name in layer.active_adapters:
            weight = weight + layer.get_delta_weight(name)
    return weight, bias


def _is_full_precision(weight: Tensor) -> bool:
    """Whether products with a weight are computed in float32 or float64 on the CPU."""
    is_full = weight.dtype in (torch.float32, torch.float64)
    return weight.is_cpu and is_full and not torch.is_autocast_enabled("cpu")


def _concatenated(parts: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    weight = torch.cat([weight for weight, _ in parts])
    if all(bias is None for _, bias in parts):
        return weight, None
    return weight, torch.cat([weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in parts])


Attend = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]
"""Attention float[R, H, D] from the layer's index, q float[R, H, D], k and v float[R, G, D], and the scale."""


class TokenPass:
    """The forward pass of one new token per row, with fused layers; valid for as long as these are.

    Args:
        text_model: of transformers, with Llama's layers or Qwen's; they may be adapted or quantised.
        fuse: fuses linear layers that read the same rows.
    """

    def __init__(self, text_model: Any, fuse: FuseLayers) -> None:
        self._layers = [_DecoderLayer(layer, fuse) for layer in text_model.layers]
        self._norm, self._rotary = text_model.norm, text_model.rotary_emb
        self._num_parts = num_position_parts(text_model)

    @torch.no_grad()
    def __call__(self, embeds: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Compute the hidden states float[R, E] that predict the next tokens.

        Args:
            embeds: float[R, E] of the tokens.
            positions: int64[R] of the tokens.
            attend: adds the new keys and values to a cache, and attends to all that it holds.
        """
        position_ids = positions.unsqueeze(0) if self._num_parts == 1 else positions.expand(self._num_parts, 1, -1)
        # With M-RoPE the three positions of a text token are equal, and so are their rotations: take the first.
        rotations = (x.flatten(0, -3)[0] for x in self._rotary(embeds.unsqueeze(0), position_ids))
        cos, sin = (x.unsqueeze(1) for x in rotations)
        # The minus sign of transformers' ``rotate_half`` is moved into sin, so that a roll does the rest.
        lower, upper = sin.chunk(2, -1)
        sin = torch.cat([-lower, upper], -1)
        hidden = embeds
        for layer in self._layers:
            hidden = layer.advance(hidden, cos, sin, attend)
        return rms_norm(hidden, self._norm.weight, self._norm.variance_epsilon)


def num_position_parts(text_model: Any) -> int:
    """3 with M-RoPE, where time, height and width each rotate a part of a head, else 1."""
    return 3 if "mrope_section" in (text_model.config.rope_parameters or {}) else 1


class _DecoderLayer:
    """One transformer layer as four fused matrix products."""

    def __init__(self, layer: Any, fuse: FuseLayers) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.index, self.scale, self.head_size = attention.layer_idx, attention.scaling, attention.head_dim
        self.num_keys = attention.config.num_key_value_heads
        self.num_queries = attention.config.num_attention_heads
        self.first_norm, self.second_norm = layer.input_layernorm, layer.post_attention_layernorm
        self.head_norms = [getattr(attention, name) for name in ("q_norm", "k_norm") if hasattr(attention, name)]
        self.qkv = fuse([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out = fuse([attention.o_proj])
        self.gate_up = fuse([mlp.gate_proj, mlp.up_proj])
        self.down, self.activation = fuse([mlp.down_proj]), mlp.act_fn

    def advance(self, hidden: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """Compute float[R, E] from float[R, E], with the rotary embedding cos and sin float[R, 1, D]."""
        normed = rms_norm(hidden, self.first_norm.weight, self.first_norm.variance_epsilon)
        heads = self.qkv(normed).unflatten(-1, (-1, self.head_size))
        # The heads are in the order q, k, v, so those of q and k are rotated together.
        rotated, v = heads[:, : -self.num_keys], heads[:, -self.num_keys :]
        if self.head_norms:
            parts = zip(rotated.split((self.num_queries, self.num_keys), 1), self.head_norms, strict=True)
            rotated = torch.cat([rms_norm(part, norm.weight, norm.variance_epsilon) for part, norm in parts], 1)
        # Under autocast cos and sin are wider than the products.
        rotated = (rotated * cos).addcmul_(rotated.roll(self.head_size // 2, -1), sin).to(v.dtype)
        q, k = rotated[:, : self.num_queries], rotated[:, self.num_queries :]
        hidden = hidden + self.out(attend(self.index, q, k, v, self.scale).flatten(1))
        normed = rms_norm(hidden, self.second_norm.weight, self.second_norm.variance_epsilon)
        gate, up = self.gate_up(normed).chunk(2, -1)
        return hidden + self.down(self.activation(gate) * up)


class Decoder:
    """Decodes R unfinished completions token by token, with their key-value cache.

    Args:
        text_model: its weights must not change while the decoder is used.
        prompt_cache: of B prompts.
        num_completions: K of each prompt, so that R = B K at first.
        max_tokens: the most tokens that each completion can be fed.
    """

    def __init__(self, text_model: Any, prompt_cache: PromptCache, num_completions: int, max_tokens: int) -> None:
        self.prompt_cache, self.max_tokens = prompt_cache, max_tokens
        batch, device = len(prompt_cache.lengths), prompt_cache.last.device
        self._scene = torch.arange(batch, device=device).repeat_interleave(num_completions)
        self._start = torch.tensor(prompt_cache.starts, device=device)
        self._token_pass = TokenPass(text_model, partial(fused_linear, num_rows=self.num_alive))
        self._own: dict[int, tuple[Tensor, Tensor]] = {}
        self._num_fed = 0
        self._kept_scenes: list[int] = []
        self._prompts: list[list[tuple[Tensor, Tensor]]] = []
        self._packing = self._pack_alive()

    @property
    def num_alive(self) -> int:
        """R, the number of unfinished completions."""
        return len(self._scene)

    def advance(self, embeds: Tensor) -> Tensor:
        """Compute the next hidden states float[R, E] from the embeddings float[R, E] of the last tokens."""
        hidden = self._token_pass(embeds, self._start[self._scene] + self._num_fed, self._attend)
        self._num_fed += 1
        return hidden

    def keep(self, rows: Tensor) -> None:
        """Drop all completions but those of some rows: int64[R'], ascending."""
        self._scene = self._scene[rows]
        for layer, kept in list(self._own.items()):
            like = kept[0][: len(rows), 0]  # one token's keys, for their number and shape
            for new, old in zip(self._allocate(layer, like), kept, strict=True):
                new[:, : self._num_fed] = old[rows, : self._num_fed]
        self._packing = self._pack_alive()

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        own_k, own_v = self._own.get(layer) or self._allocate(layer, k)
        own_k[:, self._num_fed], own_v[:, self._num_fed] = k, v
        num_keys = self._num_fed + 1
        # The only query is the last token, which attends to all tokens of its completion: no mask is needed.
        own = attend(q.unsqueeze(1), own_k[:, :num_keys], own_v[:, :num_keys], scale, causal=False)
        groups = zip(self._packing.to_scene_grids(q), self._prompts[layer], strict=True)
        parts = [attend(queries, *keys, scale, causal=False) for queries, keys in groups]
        prompt = PartialAttention(
            *(self._packing.from_grids([x.flatten(0, 1) for x in column]) for column in zip(*parts, strict=True))
        )
        return merge_outputs(prompt, PartialAttention(*(x.squeeze(1) for x in own)))

    def _allocate(self, layer: int, k: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(k), self.max_tokens, *k.shape[1:])
        self._own[layer] = (k.new_empty(shape), k.new_empty(shape))
        return self._own[layer]

    def _pack_alive(self) -> Packing:
        """The grids of one token for each unfinished completion."""
        counts = torch.bincount(self._scene, minlength=len(self.prompt_cache.lengths)).tolist()
        alive = [scene for scene, count in enumerate(counts) if count]
        if not self._prompts or 2 * len(alive) <= len(self._kept_scenes):
            self._keep_prompts(alive)
        is_alive = [[int(k < count) for k in range(max(counts))] for count in counts]
        return completion_packing(is_alive, self.prompt_cache.lengths, self._scene.device, self._kept_scenes)

    def _keep_prompts(self, scenes: list[int]) -> None:
        """Gather the keys and values of these scenes' prompts into grids: a copy, so not at every token."""
        self._kept_scenes = scenes
        prompts = prompt_packing(self.prompt_cache.lengths, self._scene.device, scenes)
        self._prompts = [
            list(zip(prompts.to_scene_grids(k.detach()), prompts.to_scene_grids(v.detach()), strict=True))
            for k, v in zip(self.prompt_cache.keys, self.prompt_cache.values, strict=True)
        ]


class VLMTokenDecoder:
    """A ``TokenDecoder`` of a vision-language model: decoder, head and sampling options.

    Args:
        vlm: the transformers model whose text model the decoder runs.
        decoder: of the completions.
        sampling: temperature, top-k and top-p.
        banned: bool[V], True on tokens that can never be drawn; a grammar has masks of its own.
    """

    def __init__(self, vlm: Any, decoder: Decoder, sampling: Sampling, banned: Tensor) -> None:
        self._embed, self._decoder = vlm.get_input_embeddings(), decoder
        self._head = fused_linear([vlm.lm_head], decoder.num_alive)
        self._sampling, self._banned = sampling, banned

    def next_logps(self, hidden: Tensor, grammar_states: GrammarStates | None) -> Tensor:
        """Log-probabilities float[R, V] of the next tokens, as in ``TokenDecoder``."""
        banned = grammar_states.banned(self._banned.device) if grammar_states else self._banned
        return next_token_logps(self._head(hidden), self._sampling, banned)

    def advance(self, tokens: Tensor) -> Tensor:
        """Compute the next hidden states float[R, E], as in ``TokenDecoder``."""
        return self._decoder.advance(self._embed(tokens))

    def keep(self, rows: Tensor) -> None:
        """Drop all completions but those of some rows, as in ``TokenDecoder``."""
        self._decoder.keep(rows)
