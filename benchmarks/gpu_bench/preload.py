"""Imports that every section needs, for processes to be forked from.

bitsandbytes asks the GPU what it is as soon as it is imported, and peft and transformers import it where they find it.
A process that has spoken to the GPU is not fit to be forked, so here it is not to be found.
"""

import sys
from importlib import import_module

_LIBRARIES = ("lvad.commands.lightning_cli", "lvad.commands.export", "lvad.commands.audit")
_SECTIONS = ("parity", "runs", "stages", "steps", "tokens")

sys.modules["bitsandbytes"] = None  # type: ignore[assignment]
for module in (*_LIBRARIES, *(f"gpu_bench.{name}" for name in _SECTIONS)):
    import_module(module)
