"""A cache of visual tokens in memory and in files, and how much memory it may take."""

import os
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Final

import psutil
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

_BYTES_PER_MB: Final = 2**20
_SHARE_OF_FREE: Final = 0.25
_CONTROL_GROUPS: Final = Path("/sys/fs/cgroup")


def cache_key(scene: bytes, encoder: bytes) -> str:
    """Cache key of a scene's visual tokens: hash of the frames, hash of encoder and settings."""
    return f"{scene.hex()}-{encoder.hex()}"


class VisualTokenCache:
    """Caches visual tokens in memory and in files, by the keys of ``cache_key``.

    When memory is full, tokens of earlier states of the encoder are evicted, the least recently used first. Tokens of
    the same state are never evicted; new ones are not kept instead. In a shuffled epoch over twice as many scenes as
    fit, half of the look-ups succeed that way; with eviction of the oldest it would be one in seven.

    Args:
        memory_mb: as in ``VisionCache``.
        folder: as in ``VisionCache``.
    """

    def __init__(self, memory_mb: int | None = None, folder: str | None = None) -> None:
        self._max_bytes = None if memory_mb is None else memory_mb * _BYTES_PER_MB
        self._folder = Path(folder) if folder else None
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self.num_bytes = 0

    def get(self, key: str) -> Tensor | None:
        """Look the visual tokens of a key up; None if there are none.

        Raises:
            ValueError: naming a file of the folder that cannot be read.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        file = self._file(key)
        if file is None or not file.is_file():
            return None
        try:
            features = load_file(file)["features"]
            if features.ndim != 2 or not features.is_floating_point():
                raise ValueError(f"{features.dtype} of shape {list(features.shape)}")
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{file} holds no visual tokens ({error}); delete it") from error
        self._remember(key, features)
        return features

    def put(self, key: str, features: Tensor) -> None:
        """Keep the visual tokens float[N, L E] of a key, as ``FrameEncoder.encode`` returns them."""
        features = features.detach().to("cpu", copy=True)
        self._remember(key, features)
        file = self._file(key)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            # Other processes read the folder: a rename makes the whole file appear at once.
            handle, written = tempfile.mkstemp(dir=file.parent)
            os.close(handle)
            save_file({"features": features.contiguous()}, written)
            os.replace(written, file)

    def _file(self, key: str) -> Path | None:
        return self._folder / key[:2] / f"{key}.safetensors" if self._folder else None

    def _remember(self, key: str, features: Tensor) -> None:
        if self._max_bytes is None:
            self._max_bytes = int(_SHARE_OF_FREE * free_bytes() / _processes_here())
        size = _size(features)
        if size > self._max_bytes or key in self._kept:
            return
        while self.num_bytes + size > self._max_bytes:
            oldest = next(iter(self._kept))
            if _encoder_of(oldest) == _encoder_of(key):
                return
            self.num_bytes -= _size(self._kept.pop(oldest))
        self._kept[key] = features
        self.num_bytes += size


def free_bytes() -> int:
    """Memory that can be allocated without swapping, within the limits of this process's control groups."""
    free = psutil.virtual_memory().available
    for group in _own_groups():
        try:
            limit, used = (int((group / name).read_text(encoding="utf-8")) for name in ("memory.max", "memory.current"))
            stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError):  # no limit ("max"), or none of version 2
            continue
        # The page cache of files counts as used, but is freed on demand.
        free = min(free, limit - used + int(stat["file"]))
    return max(free, 0)


def _own_groups() -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []
    own = [_CONTROL_GROUPS / line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    return [folder for group in own for folder in (group, *group.parents) if folder.is_relative_to(_CONTROL_GROUPS)]


def _processes_here() -> int:
    """An upper bound on the run's processes on this machine: one per accelerator, on a CPU all of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1
    world = torch.distributed.get_world_size()
    devices = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    return min(world, devices) if devices else world


def _encoder_of(key: str) -> str:
    return key.rpartition("-")[2]


def _size(features: Tensor) -> int:
    return features.numel() * features.element_size()
