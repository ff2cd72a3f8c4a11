"""What the figures are of: the card and the versions."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from gpu_bench.bench import Bench
from gpu_bench.catalogue import NO_CARD
from gpu_bench.rows import Row, Rows

PACKAGES = ("torch", "torchvision", "transformers", "lightning", "peft", "bitsandbytes", "trl")


def machine(bench: Bench) -> Rows:
    """One row; a GPU that cannot be used is an error."""
    torch.zeros(1, device=bench.device)
    card, memory_gib = NO_CARD, 0.0
    if bench.device.type == "cuda":
        properties = torch.cuda.get_device_properties(bench.device)
        card, memory_gib = properties.name, properties.total_memory / 2**30
    facts = {"card": card, "memory_gib": round(memory_gib, 1), "cores": len(os.sched_getaffinity(0))}
    facts |= {"cuda": torch.version.cuda or "none", "python": platform.python_version()}
    yield Row("machine", facts | {name: _version(name) for name in PACKAGES})


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
