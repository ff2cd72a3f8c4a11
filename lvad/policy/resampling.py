"""Pillow's resize of 8-bit images as small matrix products, with the same bits on every device.

Pillow resizes along the rows, then along the columns. Each pixel is a sum of a few neighbours with weights rounded to
22 bits after the binary point, and is rounded to 8 bits after each of the two passes. This is integer arithmetic, so
the result is exact and does not depend on the order of the additions.

Rows always come first, as in torchvision. Pillow 13 and later begin with the columns where an image loses more than
twice as much height as width; values out of range are then clipped at another time, and the result differs.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache, reduce
from typing import Final, NamedTuple

import torch
from torch import Tensor

_BITS: Final = 22  # of Pillow's weights, after the binary point
_BLOCK: Final = 16
"""Neighbouring outputs that share a window of inputs: larger blocks multiply more zeros, smaller ones are slower."""
_DIGITS: Final = 3
_MOST_TERMS: Final = 512  # of one sum, see ``_bands``
_CPU_VALUES_AT_ONCE: Final = 2**18  # of sums: what fits the cache of a core
_DEVICE_VALUES_AT_ONCE: Final = 2**27  # half a gigabyte


class _Kernel(NamedTuple):
    name: str
    radius: float
    """In pixels of the coarser image."""
    weight: Callable[[Tensor], Tensor]


def _bilinear(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _bicubic(x: Tensor) -> Tensor:
    x = x.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _lanczos(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0)


KERNELS: Final = {
    1: _Kernel("lanczos", 3.0, _lanczos),
    2: _Kernel("bilinear", 1.0, _bilinear),
    3: _Kernel("bicubic", 2.0, _bicubic),
}
"""The filters by Pillow's numbers."""


class _Bands(NamedTuple):
    """The banded matrix of one pass, as blocks of outputs with a window of inputs each, without most of its zeros."""

    digits: Tensor
    """float[blocks, 3 * _BLOCK, window], the weights' digits to the base 256: lowest, middle, highest."""
    inputs: Tensor
    """int64[blocks * window], the inputs of each window."""


def resize(images: Tensor, height: int, width: int, resample: int) -> Tensor:
    """Resize each channel as Pillow does.

    Args:
        images: uint8[N, C, H, W].
        height: of the result.
        width: of the result.
        resample: Pillow's number of the filter, one of ``KERNELS``.

    Returns:
        uint8[N, C, height, width].
    """
    number, channels, rows, columns = images.shape
    if columns != width:
        # As a matrix: PyTorch transposes two dimensions in blocks, but three dimensions byte by byte.
        by_column = images.reshape(-1, columns).t().contiguous()
        images = _pass(by_column, width, resample).t().contiguous()
    images = images.reshape(-1, rows, width)
    if rows != height:
        by_row = images.transpose(0, 1).reshape(rows, -1)
        images = _pass(by_row, height, resample).view(height, -1, width).transpose(0, 1)
    return images.reshape(number, channels, height, width)


def _pass(values: Tensor, length: int, resample: int) -> Tensor:
    """Resize the first dimension: uint8[length, N] from uint8[n, N]."""
    bands = _bands(len(values), length, resample, values.device)
    blocks, sums, window = bands.digits.shape
    most = _CPU_VALUES_AT_ONCE if values.device.type == "cpu" else _DEVICE_VALUES_AT_ONCE
    parts = []
    # Autocast would round the sums to bfloat16; switching it off where it is off would only cost time.
    is_cast = torch.is_autocast_enabled(values.device.type)
    with torch.autocast(values.device.type, enabled=False) if is_cast else nullcontext():
        for part in values.split(max(1, most // (blocks * sums)), 1):
            seen = part.index_select(0, bands.inputs).float().view(blocks, window, -1)
            products = zip(bands.digits.split(_MOST_TERMS, 2), seen.split(_MOST_TERMS, 1), strict=True)
            low, middle, high = reduce(torch.add, (torch.bmm(*pair).int() for pair in products)).chunk(_DIGITS, 1)
            total = middle.add_(high, alpha=2**8).mul_(2**8).add_(low).add_(2 ** (_BITS - 1))
            parts.append(total.bitwise_right_shift_(_BITS).clamp_(0, 255).byte().flatten(0, 1)[:length])
    return torch.cat(parts, 1)


@lru_cache(maxsize=64)
def _bands(old: int, new: int, resample: int, device: torch.device) -> _Bands:
    """Compute the matrix that resizes ``old`` pixels to ``new``.

    Digits and pixels have 8 significant bits, so they are exact in float32, TF32 and bfloat16, whatever precision of
    matrix products is allowed. The sum of 512 of their products is below 2^24, which float32 adds exactly.
    """
    first, weights = _weights(old, new, KERNELS[resample])
    taps = weights.shape[1]
    blocks = -(-new // _BLOCK)
    starts = first[::_BLOCK]
    ends = torch.cat([first[_BLOCK - 1 :: _BLOCK], first[-1:]])[:blocks] + taps
    window = min(int((ends - starts).max()), old)
    starts = starts.clamp(max=old - window)
    matrix = torch.zeros(blocks * _BLOCK, window, dtype=torch.int64)
    places = (first - starts.repeat_interleave(_BLOCK)[:new])[:, None] + torch.arange(taps)
    # Indices past the window are clamped: they lie beyond the image's edge, where weights are zero.
    matrix[:new].scatter_add_(1, places.clamp(max=window - 1), weights)
    digits = []
    for _ in range(_DIGITS - 1):
        digits.append((matrix + 128) % 256 - 128)
        matrix = (matrix - digits[-1]) // 256
    banded = [digit.view(blocks, _BLOCK, window) for digit in (*digits, matrix)]
    inputs = (starts[:, None] + torch.arange(window)).flatten()
    return _Bands(torch.cat(banded, 1).float().to(device), inputs.to(device))


def _weights(old: int, new: int, kernel: _Kernel) -> tuple[Tensor, Tensor]:
    """The first input of each output, int64[new], and its weights times 2^22, int64[new, taps]."""
    scale = old / new
    reach = kernel.radius * max(scale, 1.0)
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * scale
    first = (centres - reach + 0.5).long().clamp(min=0)
    last = (centres + reach + 0.5).long().clamp(max=old)
    inputs = first[:, None] + torch.arange(min(math.ceil(reach) * 2 + 1, old))
    weights = kernel.weight((inputs - centres[:, None] + 0.5) / max(scale, 1.0))
    weights = torch.where(inputs < last[:, None], weights, 0.0)
    weights = weights / weights.sum(1, keepdim=True) * 2**_BITS
    return first, (weights.abs() + 0.5).floor().mul(weights.sign()).long()
