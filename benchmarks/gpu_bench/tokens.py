"""Milliseconds a sampled token, launched kernel by kernel and as a CUDA graph; and what the host reads meanwhile."""

import contextlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from rloo_bench.ours import autocast, make_batch, make_policy, on_device
from rloo_bench.setting import Setting, Side

from gpu_bench.bench import Bench
from gpu_bench.rows import Row, Rows

SIZES = {8: (1, 17, 8, 40), 64: (8, 5, 8, 64), 256: (32, 5, 8, 64)}
"""By rows: scenes, tiles of each, completions of each, tokens of each."""
TINY = {4: (2, 1, 2, 6)}
MS_PER_TOKEN = {8: 3.0, 64: 3.0}
"""At most, as a graph."""
TIMED = 3
TOKENS_PER_LOOK = 4
"""One read of the host in so many tokens, at most."""


def tokens(bench: Bench) -> Rows:
    """At the shapes of SmolVLM-256M, all completions at their longest."""
    for rows, size in (TINY if bench.is_tiny else SIZES).items():
        policy, prefix, setting = _ready(bench, size)
        for with_graph in (False, True) if bench.device.type == "cuda" else (False,):
            policy.cuda_graphs = with_graph
            figures = _times(bench, lambda: policy.generate(prefix, setting.k), setting)  # noqa: B023
            at_most = {"ms_per_token": MS_PER_TOKEN[rows]} if with_graph and rows in MS_PER_TOKEN else {}
            yield Row.judged(f"R = {rows}, {'graph' if with_graph else 'eager'}", figures, at_most)


def _ready(bench: Bench, size: tuple[int, int, int, int]) -> tuple[Any, Any, Setting]:
    scenes, tiles, k, length = size
    geometry = "embedded" if bench.is_tiny else "smolvlm-256m"
    setting = Setting(geometry, tiles, 1, scenes, k, length, False, True, bench.dtype, False)
    policy = make_policy(Side(bench.model_folder(geometry, tiles, bench.dtype), setting))
    with torch.no_grad(), autocast(setting):
        return policy, policy.encode(on_device(make_batch(setting, 0), bench.device)), setting


def _times(bench: Bench, generate: Callable[[], Any], setting: Setting) -> dict[str, float | str]:
    def seconds() -> float:
        bench.synchronize()
        start_s = time.perf_counter()
        with torch.no_grad(), autocast(setting):
            generate()
        bench.synchronize()
        return time.perf_counter() - start_s

    first_s = seconds()  # the graph's capture is in it
    again = [seconds() for _ in range(TIMED)]
    return {"ms_per_token": 1e3 * statistics.median(again) / setting.tokens, "first_s": first_s}


def host_reads(bench: Bench) -> Rows:
    """How often the host waits for the device in each part of a step, once all is warm; counted by PyTorch on CUDA."""
    if bench.device.type != "cuda":
        yield Row("host reads", note="left out: counted on CUDA alone; tests/device counts on a test device")
        return
    for rows in (8, 64):
        policy, prefix, setting = _ready(bench, SIZES[rows])
        batch, counts = on_device(make_batch(setting, 1), bench.device), {}
        for _ in range(2):
            with autocast(setting):
                with counted(counts, "encode"):
                    prefix = policy.encode(batch)
                with counted(counts, "generate"):
                    rollouts = policy.generate(prefix, setting.k)
                with counted(counts, "logprobs"):
                    loss = policy.logprobs(prefix, rollouts).sum()
                with counted(counts, "backward"):
                    loss.backward()
            policy.zero_grad()
        yield Row.judged(f"R = {rows}, {setting.tokens} tokens", counts, {"generate": setting.tokens / TOKENS_PER_LOOK})


@contextlib.contextmanager
def counted(counts: dict[str, float | str], name: str) -> Iterator[None]:
    """Count the operations of a block that wait for the device."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    counts[name] = sum("synchronizing CUDA operation" in str(warning.message) for warning in said)
