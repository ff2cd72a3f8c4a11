"""Products of sampled rows on an accelerator: few kernels, and weights that a captured graph finds where they were.

A small product costs what its launch costs, so layers that multiply the same rows are joined, and their adapters merged
(in full precision) or joined (in half). What is joined or merged is a copy at an address that stays, written anew
before each rollout (``refresh``); all other weights are read where they lie. So an update needs no new capture.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lvad.policy.adapters import is_lora_layer

_JOINED_AT_MOST = 2**22  # entries; reading more takes longer than the launches that joining saves


class FixedProducts:
    """Makes the products of one sampler, and writes their copies of weights anew."""

    def __init__(self) -> None:
        self._made: list[FixedProduct] = []

    def __call__(self, layers: Sequence[Any]) -> "FixedProduct":
        """What linear layers make of the same rows, side by side."""
        self._made.append(FixedProduct(layers))
        return self._made[-1]

    @property
    def can_be_captured(self) -> bool:
        """False if a layer multiplies by itself: what a foreign layer launches is not known."""
        return all(product.can_be_captured for product in self._made)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the present weights over."""
        for product in self._made:
            product.refresh()


class FixedProduct:
    """Linear layers side by side: float[R, N] from float[R, E], without gradients.

    Args:
        layers: ``nn.Linear``, or what stands in their place to adapt or pack their weights. The state of their adapters
            (which are on, and merged) stays; the weights may change between two calls of ``refresh``.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = list(layers)
        self.can_be_captured = all(_is_plain(layer) for layer in layers)
        self._parts: list[_JoinedLayers] = []
        if self.can_be_captured:
            size = sum(_base(layer).weight.numel() for layer in layers)
            together = size <= _JOINED_AT_MOST or any(_needs_copy([layer]) for layer in layers)
            self._parts = [_JoinedLayers(group) for group in ([layers] if together else [[layer] for layer in layers])]

    def refresh(self) -> None:
        """Take the present weights over."""
        for part in self._parts:
            part.refresh()

    def __call__(self, rows: Tensor) -> Tensor:
        """The products; in the autocast dtype where autocast was on when this was made, else in that of the weights."""
        made = [part(rows) for part in self._parts or self._layers]
        return made[0] if len(made) == 1 else torch.cat(made, -1)


class _JoinedLayers:
    """One weight of several layers, and one pair of low-rank factors of their adapters."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = layers
        bases = [_base(layer) for layer in layers]
        self._dtype = _dtype(bases[0].weight)
        self._merges = self._dtype in (torch.float32, torch.float64)
        first, num_outs = bases[0].weight, [base.weight.shape[0] for base in bases]
        self._weight, self._bias = first.detach(), None
        self._copies = _needs_copy(layers)
        if self._copies:
            self._weight = torch.empty(sum(num_outs), first.shape[1], dtype=self._dtype, device=first.device)
        if any(base.bias is not None for base in bases):
            self._bias = torch.zeros(sum(num_outs), dtype=self._dtype, device=first.device)
        self._down, self._up = None, None
        if not self._merges and (rank := sum(a.shape[0] for layer in layers for a, _ in _factors(layer))):
            self._down = torch.zeros(rank, first.shape[1], dtype=self._dtype, device=first.device)
            self._up = torch.zeros(sum(num_outs), rank, dtype=self._dtype, device=first.device)

    def refresh(self) -> None:
        """Take the present weights and factors over."""
        row = column = 0
        for layer in self._layers:
            weight, bias = _base(layer).weight, _base(layer).bias
            rows = slice(row, row + len(weight))
            if self._copies:
                self._weight[rows] = weight
            if self._bias is not None and bias is not None:
                self._bias[rows] = bias
            for down, up in _factors(layer):
                if self._down is None or self._up is None:
                    self._weight[rows] += up @ down  # of the copy: where factors are merged there is one
                    continue
                columns = slice(column, column + len(down))
                # The rest of these rows stays zero: an adapter reaches the outputs of its own layer alone.
                self._down[columns], self._up[rows, columns] = down, up
                column += len(down)
            row += len(weight)

    def __call__(self, rows: Tensor) -> Tensor:
        rows = rows.to(self._dtype)
        out = nn.functional.linear(rows, self._weight, self._bias)
        # A merged weight's rounding would swallow part of the adapters in half precision.
        if self._down is None or self._up is None:
            return out
        return torch.addmm(out, nn.functional.linear(rows, self._down), self._up.t())


def _base(layer: Any) -> Any:
    return layer.base_layer if is_lora_layer(layer) else layer


def _is_plain(layer: Any) -> bool:
    base = _base(layer)
    # Layers with merged adapters unmerge themselves where adapters are off.
    is_merged = is_lora_layer(layer) and layer.merged
    return type(base) is nn.Linear and "forward" not in vars(base) and not is_merged


def _factors(layer: Any) -> list[tuple[Tensor, Tensor]]:
    """float[r, E] and float[N, r] of each adapter that is on; their product is added to the weight."""
    if not is_lora_layer(layer) or layer.disable_adapters:
        return []
    down: Any = layer.lora_A
    up: Any = layer.lora_B
    names = layer.active_adapters
    return [(down[name].weight.detach(), up[name].weight.detach() * layer.scaling[name]) for name in names]


def _needs_copy(layers: Sequence[Any]) -> bool:
    weight = _base(layers[0]).weight
    dtype = _dtype(weight)
    is_merged = dtype in (torch.float32, torch.float64) and any(_factors(layer) for layer in layers)
    return len(layers) > 1 or is_merged or weight.dtype != dtype


def _dtype(weight: Tensor) -> torch.dtype:
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
