"""What a step costs: seconds by phase, memory above its start, rows through the towers, products of matrices."""

import contextlib
import ctypes
import functools
import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

MIB = 2**20
aten = torch.ops.aten


class Phases:
    """Exclusive seconds: the time of a phase inside another counts for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self._stack: list[str] = []
        self._since = 0.0

    def reset(self) -> None:
        self.seconds, self.counts = {}, {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._switch()
        self._stack.append(name)
        try:
            yield
        finally:
            self._switch()
            self._stack.pop()

    def inside(self, name: str) -> bool:
        return name in self._stack

    def wrap(self, owner: Any, attribute: str, name: str | Callable[..., str]) -> None:
        """Time a method; ``name`` may be a function of its arguments."""
        original = getattr(owner, attribute)

        @functools.wraps(original)  # transformers looks at signatures
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name if isinstance(name, str) else name(*args, **kwargs)):
                return original(*args, **kwargs)

        setattr(owner, attribute, timed)

    def count(self, name: str, number: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + number

    def _switch(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._stack:
            top = self._stack[-1]
            self.seconds[top] = self.seconds.get(top, 0.0) + now - self._since
        self._since = now


def count_rows(phases: Phases, vlm: Any) -> None:
    """Count the tiles and the text positions that pass through a model, padding included."""

    def tiles(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        phases.count("tiles", len(kwargs["pixel_values"]))

    def positions(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = kwargs.get("inputs_embeds")
        given = kwargs.get("input_ids") if given is None else given
        phases.count("positions", given.shape[0] * given.shape[1])

    vlm.model.vision_model.register_forward_pre_hook(tiles, with_kwargs=True)
    vlm.model.text_model.register_forward_pre_hook(positions, with_kwargs=True)


class Memory:
    """Peak memory of a block above what is held at its start, in MiB: weights, their gradients, states of AdamW.

    The gradients are made beforehand, so that what is measured is what the two sides do differently. A block that is
    not measured is left alone: giving memory back to the system costs time.
    """

    def __init__(self) -> None:
        self.peak_mib = 0.0

    @contextlib.contextmanager
    def measure(self, parameters: Iterable[Tensor] | None) -> Iterator[None]:
        if parameters is None:
            yield
            return
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            start = torch.cuda.memory_allocated()
            yield
            self.peak_mib = (torch.cuda.max_memory_allocated() - start) / MIB
            return
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        start_kib = _status_kib("VmRSS")
        yield
        self.peak_mib = (_status_kib("VmHWM") - start_kib) / 1024


def _status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def matrix_product_rate(dtype: torch.dtype, device: torch.device, size: int = 2048, repeats: int = 7) -> float:
    """Floating-point operations per second of a square matrix product, median."""
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    seconds = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[1:])


def _attention_counter(operator: Any) -> Callable[..., int]:
    """Operations of one kernel from the shapes of its arguments, whose places differ from kernel to kernel."""
    names = [argument.name for argument in operator.default._schema.arguments]
    products = 5 if operator.__name__.endswith("backward") else 2  # queries by keys, scores by values, and so on

    def count(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
        given = dict(zip(names, args, strict=False)) | kwargs
        batch, heads, queries, width = given["query"]
        pairs = batch * heads * queries * given["key"][2]  # also where several heads share their keys
        return products * 2 * pairs * width // (2 if given.get("is_causal") else 1)

    return count


@contextlib.contextmanager
def count_operations() -> Iterator[FlopCounterMode]:
    """Floating-point operations of matrix products and attention; a masked-out half counts for nothing.

    PyTorch's own counts of attention take the masked half for whole, and some versions refuse shared keys.
    """
    kernels = ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention")
    names = [f"_scaled_dot_product_{kernel}{end}" for kernel in kernels for end in ("", "_backward")]
    mapping = {operator: _attention_counter(operator) for name in names if (operator := getattr(aten, name, None))}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        yield counter
