"""Products of a few rows with large weights on a CPU, where reading the weights is all the work.

MKL lays the weights out anew in every call. oneDNN lays them out once, in the order in which it reads them for that
many rows: about twice as fast for 1 to 16 rows on the processor of ``benchmarks/README.md``. The copy costs as much as
four to eight tokens, by whether its memory is at hand.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_LARGE = 10**5  # entries; smaller weights stay in the cache, and nothing is to be gained


@contextmanager
def thin_products(modules: Iterable[nn.Module], num_rows: int) -> Iterator[None]:
    """Let large float32 linear layers on the CPU multiply through oneDNN, for the time of a block without gradients.

    Args:
        modules: of which the large linear layers are taken.
        num_rows: of most products; any other number gives the same values, at some other speed.
    """
    changed = [module for module in modules if isinstance(module, nn.Linear) and _gains(module)]
    for module in changed:
        vars(module)["forward"] = _product(module, num_rows)
    try:
        yield
    finally:
        for module in changed:
            del vars(module)["forward"]


def _gains(module: nn.Linear) -> bool:
    return (
        type(module) is nn.Linear  # not one that quantises or shards its weight
        and "forward" not in vars(module)
        and module.weight.is_cpu
        and module.weight.dtype is torch.float32
        and module.weight.numel() >= _LARGE
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )


def _product(module: nn.Linear, num_rows: int) -> Callable[[Tensor], Tensor]:
    weight, bias = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach(), num_rows), module.bias
    linear = torch.ops.mkldnn._linear_pointwise

    def forward(rows: Tensor) -> Tensor:
        return linear(rows.contiguous(), weight, bias, "none", [], "")

    return forward
