"""One new token per row through a text model, without gradients: what sampling repeats.

The values are those of transformers' own layers. In a small model, calls of modules and elementwise operations between
the products take as long as the products of a few rows; here a layer is four products and the least between them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lvad.policy.norms import rms_norm
from lvad.policy.products import Product

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
