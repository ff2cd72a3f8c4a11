"""Fused linear layers whose weights stay at one address, as a captured CUDA graph needs them.

A small matrix product costs what its kernel launch costs. So layers that read the same rows are fused, and their
adapters are merged into the weight (full precision) or fused beside it (half precision). A fused or merged weight is a
copy at a fixed address, which ``refresh`` writes again before each rollout; other weights are read in place. So an
update of the weights needs no new capture.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lvad.policy.adapters import is_lora_layer

_MAX_FUSED = 2**22  # entries; copying more takes longer than the launches that fusing saves


class StaticWeights:
    """All fused layers of one sampler, refreshed together."""

    def __init__(self) -> None:
        self._layers: list[StaticLinear] = []

    def fuse(self, layers: Sequence[Any]) -> "StaticLinear":
        """Fuse linear layers that read the same rows."""
        self._layers.append(StaticLinear(layers))
        return self._layers[-1]

    @property
    def can_be_captured(self) -> bool:
        """Whether every layer is a plain product; another kind of layer may do what a graph cannot hold."""
        return all(layer.can_be_captured for layer in self._layers)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the present weights."""
        for layer in self._layers:
            layer.refresh()


class StaticLinear:
    """The outputs float[R, outputs] of several linear layers from the same rows float[R, E], without gradients.

    Args:
        layers: ``nn.Linear``, adapted or quantised ones too. Which adapters are on or merged must not change; the
            weights may change between two calls of ``refresh``.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = list(layers)
        self.can_be_captured = all(_is_plain(layer) for layer in layers)
        self._fused: list[_FusedWeight] = []
        if self.can_be_captured:
            size = sum(_base(layer).weight.numel() for layer in layers)
            is_one = size <= _MAX_FUSED or any(_needs_copy([layer]) for layer in layers)
            self._fused = [_FusedWeight(group) for group in ([layers] if is_one else [[layer] for layer in layers])]

    def refresh(self) -> None:
        """Copy the present weights."""
        for fused in self._fused:
            fused.refresh()

    def __call__(self, rows: Tensor) -> Tensor:
        """Multiply, in the autocast dtype if autocast was on when this was made, else in that of the weights."""
        outputs = [linear(rows) for linear in self._fused or self._layers]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)


class _FusedWeight:
    """One weight for several layers, and one pair of low-rank factors for their adapters."""

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
        """Copy the present weights and factors."""
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
                    self._weight[rows] += up @ down  # into the copy, which exists wherever factors are merged
                    continue
                columns = slice(column, column + len(down))
                # Other entries of these rows stay zero: an adapter changes only the outputs of its own layer.
                self._down[columns], self._up[rows, columns] = down, up
                column += len(down)
            row += len(weight)

    def __call__(self, rows: Tensor) -> Tensor:
        rows = rows.to(self._dtype)
        out = nn.functional.linear(rows, self._weight, self._bias)
        # In half precision rounding a merged weight would lose part of the adapters.
        if self._down is None or self._up is None:
            return out
        return torch.addmm(out, nn.functional.linear(rows, self._down), self._up.t())


def _base(layer: Any) -> Any:
    return layer.base_layer if is_lora_layer(layer) else layer


def _is_plain(layer: Any) -> bool:
    """Whether a layer is a product with its weight and adapters, and nothing else."""
    base = _base(layer)
    # Layers with merged adapters unmerge themselves when their adapters are switched off.
    is_merged = is_lora_layer(layer) and layer.merged
    return type(base) is nn.Linear and "forward" not in vars(base) and not is_merged


def _factors(layer: Any) -> list[tuple[Tensor, Tensor]]:
    """The low-rank factors float[rank, inputs] and float[outputs, rank] of each adapter that is on, scaled."""
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
