"""The test device in torch, by the name ``testdevice``: importing this module installs it.

A process has one such device, for good: import it in processes of their own.
"""

import contextlib
import importlib.util
import types
from collections.abc import Iterator
from typing import Any, Final

import torch
from building import MODULE, built

NAME: Final = "testdevice"


def _load() -> Any:
    found = importlib.util.spec_from_file_location(MODULE, built())
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _module(generator: torch.Generator) -> types.ModuleType:
    """What PyTorch and Lightning look for at ``torch.testdevice``."""
    module: Any = types.ModuleType(f"torch.{NAME}")
    module.is_available = module.is_initialized = lambda: True
    module._is_in_bad_fork = lambda: False
    module._lazy_init = module.synchronize = module.set_device = module.empty_cache = lambda *_: None
    module.device_count, module.current_device = lambda: 1, lambda: 0
    module.device = lambda _: contextlib.nullcontext()
    module.manual_seed = module.manual_seed_all = generator.manual_seed
    module.get_rng_state = lambda _=0: generator.get_state()
    module.set_rng_state = lambda state, _=0: generator.set_state(state)
    module.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
    return module


_EXTENSION = _load()
torch.utils.rename_privateuse1_backend(NAME)
torch._register_device_module(NAME, _module(_EXTENSION.default_generator()))
torch.utils.generate_methods_for_privateuse1_backend(for_tensor=True, for_module=True, for_storage=True)
DEVICE: Final = torch.device(NAME, 0)


@contextlib.contextmanager
def watched(each: Any) -> Iterator[None]:
    """Call ``each(kind, operator)`` for all that makes the host wait for the device, from any thread."""
    _EXTENSION.watch(each)
    try:
        yield
    finally:
        _EXTENSION.watch(None)


@contextlib.contextmanager
def float64(is_known: bool) -> Iterator[None]:
    """Let the device hold float64, as CUDA does and MPS does not; without, it is refused."""
    _EXTENSION.allow_float64(is_known)
    try:
        yield
    finally:
        _EXTENSION.allow_float64(False)
