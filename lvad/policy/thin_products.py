"""Products of a few rows with large weights on a CPU, where reading the weights is all the work.

MKL lays the weights out anew in every call. oneDNN takes them as they are, given a copy of its own: 1.3 to 2 times
faster for 2 to 16 rows on the processor of ``benchmarks/README.md``, and the copy costs as much as four tokens.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_LARGE = 2**17  # entries; smaller weights stay in the cache, and nothing is to be gained


@contextmanager
def thin_products(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let large float32 linear layers on the CPU multiply through oneDNN, for the time of a block without gradients."""
    changed = [module for module in modules if isinstance(module, nn.Linear) and _gains(module)]
    for module in changed:
        vars(module)["forward"] = _product(module)
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


def _product(module: nn.Linear) -> Callable[[Tensor], Tensor]:
    weight, bias = module.weight.detach().to_mkldnn(), module.bias
    linear = torch.ops.mkldnn._linear_pointwise

    def forward(rows: Tensor) -> Tensor:
        return linear(rows.contiguous(), weight, bias, "none", [], "")

    return forward
