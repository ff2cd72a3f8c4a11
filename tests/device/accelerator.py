"""The test device in Lightning, as accelerator and strategy ``testdevice``: importing this module installs both."""

from typing import Any

import torch
from backend import DEVICE, NAME
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.strategies import SingleDeviceStrategy, StrategyRegistry


class OneDevice(Accelerator):
    """The one device of a process."""

    def setup_device(self, device: torch.device) -> None:
        assert device.type == NAME, device

    def teardown(self) -> None: ...

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> int:
        return 1 if devices in ("auto", -1, "-1") else int(devices)

    @staticmethod
    def get_parallel_devices(devices: int) -> list[torch.device]:
        return [torch.device(NAME, i) for i in range(devices)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME

    @classmethod
    def register_accelerators(cls, registry: Any) -> None:
        registry.register(NAME, cls, description="host memory that says it lies elsewhere")


OneDevice.register_accelerators(AcceleratorRegistry)
StrategyRegistry.register(NAME, SingleDeviceStrategy, device=DEVICE)
