"""Products of sampled rows with weights that stay as they are meanwhile.

On a CPU a few rows cost what reading the weights costs. MKL lays the weights out anew in every call; oneDNN lays them
out once, in the order in which it reads them for that many rows: about twice as fast for 1 to 16 rows on the processor
of ``docs/performance.md``. The copy costs as much as four to eight tokens, by whether its memory is at hand. Since it
is made anyway, layers that multiply the same rows are joined in it, and adapters merged.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lvad.policy.peft_parts import is_lora_layer

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
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, num_rows)
    return lambda rows: torch.ops.mkldnn._linear_pointwise(rows.contiguous(), laid_out, bias, "none", [], "")


def _weight_and_bias(layer: Any) -> tuple[Tensor, Tensor | None] | None:
    """With its adapters; None where the layer has to multiply by itself.

    So it does in half precision: a merged weight's rounding would swallow part of the adapters.
    """
    is_adapted = is_lora_layer(layer)
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
