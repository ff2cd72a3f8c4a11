"""The sections in their order: the essential ones first."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

ESSENTIAL_WITHIN_S = 300
ALL_WITHIN_S = 540
NO_CARD = "none, tiny sizes on the CPU"


@dataclass(frozen=True)
class Entry:
    """A section."""

    function: str
    """The name of a generator of rows, ``module:function``."""
    limit_s: int
    is_essential: bool = False
    imports_itself: bool = False
    """Needs what ``preload`` hides."""


SECTIONS = {
    "machine": Entry("gpu_bench.machine:machine", 60, True),
    "parity": Entry("gpu_bench.parity:parity", 90, True),
    "main_job": Entry("gpu_bench.runs:main_job", 100, True),
    "tokens": Entry("gpu_bench.tokens:tokens", 90, True),
    "stages_bf16_mixed": Entry("gpu_bench.stages:bf16_mixed", 90, True),
    "stages_32_true": Entry("gpu_bench.stages:in_32_true", 90, True),
    "stages_16_mixed": Entry("gpu_bench.stages:in_16_mixed", 90, True),
    "stages_bf16_true": Entry("gpu_bench.stages:bf16_true", 90, True),
    "steps_256m": Entry("gpu_bench.steps:steps_256m", 90),
    "trl_rloo": Entry("gpu_bench.steps:trl_rloo", 90),
    "resume": Entry("gpu_bench.runs:resume", 90),
    "qlora": Entry("gpu_bench.runs:qlora", 60, imports_itself=True),
    "torchrun": Entry("gpu_bench.runs:torchrun", 60),
    "steps_2b": Entry("gpu_bench.steps:steps_2b", 90),
    "host_reads": Entry("gpu_bench.tokens:host_reads", 40),
    "trl_grpo": Entry("gpu_bench.steps:trl_grpo", 90),
}
"""``machine`` comes first and by itself: it says what the figures are of."""


def load(name: str) -> Any:
    """A generator of rows by its name."""
    module, function = name.split(":")
    return getattr(import_module(module), function)


def limit_s(name: str, passed_s: float, slack: int = 1) -> float:
    """What is left for a section when so many seconds have passed; below 1 there is no time for it.

    Args:
        name: of the section.
        passed_s: since the start.
        slack: all limits are so many times as long.
    """
    entry = SECTIONS[name]
    end_s = ESSENTIAL_WITHIN_S if entry.is_essential else ALL_WITHIN_S
    return min(slack * entry.limit_s, slack * end_s - passed_s)
