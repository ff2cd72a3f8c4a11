"""The vision encoder: frames to visual tokens, each scene once, and with a frozen tower once for the whole run."""

import hashlib
import os
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lvad.ops import content_digest, fingerprints
from lvad.policy.families.family import Family, FrameEncoder

_BYTES_PER_MB: Final = 2**20
_SHARE_OF_FREE: Final = 0.25
_CONTROL_GROUPS: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class VisionCache:
    """Where the visual tokens of a frozen tower are kept, so that each scene is encoded once and not once per epoch.

    A tile of SmolVLM-256M is 64 tokens of 576 numbers: 0.07 MB where the tower runs in bfloat16, 0.14 MB in float32.
    The 16,000 training scenes of BDD-OIA take 15 GB in bfloat16 at 13 tiles, 8 GB at 7 and 1.2 GB at one. What does
    not find room is encoded again in every epoch, with the same bits.

    Args:
        memory_mb: at most so much memory; None takes a quarter of what is free when the first scene is kept, shared
            by the processes of the machine; 0 keeps none.
        folder: also keep them in files there, without a bound, for later runs and other processes.
    """

    memory_mb: int | None = None
    folder: str | None = None

    def __post_init__(self) -> None:
        if self.memory_mb is not None and self.memory_mb < 0:
            raise ValueError(f"memory_mb must be >= 0 (0 keeps none), got {self.memory_mb}")

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at all."""
        return self.memory_mb != 0 or self.folder is not None


def store_key(scene: bytes, tower: bytes) -> str:
    """What a tower with its settings says of a scene's frames, under a name for files."""
    return f"{scene.hex()}-{tower.hex()}"


class FeatureStore:
    """Visual tokens by the keys of ``store_key``.

    Where memory is full the tokens of other towers leave, those that were not asked for the longest first. Those of
    the same tower stay, and new ones are not kept: in a shuffled epoch over twice as many scenes as there is room
    for, half of them are found so; one in seven would be if the oldest had to leave.
    """

    def __init__(self, cache: VisionCache) -> None:
        self._room = None if cache.memory_mb is None else cache.memory_mb * _BYTES_PER_MB
        self._folder = Path(cache.folder) if cache.folder else None
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self.num_bytes = 0

    def get(self, key: str) -> Tensor | None:
        """What was put under the key, or None.

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
        """Keep float[N, D] under the key."""
        features = features.detach().to("cpu", copy=True)
        self._remember(key, features)
        file = self._file(key)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            # Other processes read the folder: a file appears whole or not at all.
            handle, written = tempfile.mkstemp(dir=file.parent)
            os.close(handle)
            save_file({"features": features.contiguous()}, written)
            os.replace(written, file)

    def _file(self, key: str) -> Path | None:
        return self._folder / key[:2] / f"{key}.safetensors" if self._folder else None

    def _remember(self, key: str, features: Tensor) -> None:
        if self._room is None:
            self._room = int(_SHARE_OF_FREE * free_bytes() / _processes_here())
        size = _size(features)
        if size > self._room or key in self._kept:
            return
        while self.num_bytes + size > self._room:
            oldest = next(iter(self._kept))
            if _tower(oldest) == _tower(key):
                return
            self.num_bytes -= _size(self._kept.pop(oldest))
        self._kept[key] = features
        self.num_bytes += size


def free_bytes() -> int:
    """Memory that can be had without swapping: of the machine, and of the control groups that this process is in."""
    free = psutil.virtual_memory().available
    for group in _own_groups():
        try:
            limit, used = (int((group / name).read_text(encoding="utf-8")) for name in ("memory.max", "memory.current"))
            stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError):  # no limit ("max"), or none of version 2
            continue
        free = min(free, limit - used + int(stat["file"]))  # files that were read can be read again
    return max(free, 0)


def _own_groups() -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []
    own = [_CONTROL_GROUPS / line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    return [folder for group in own for folder in (group, *group.parents) if folder.is_relative_to(_CONTROL_GROUPS)]


def _processes_here() -> int:
    """At most so many processes of the run share this machine: one for each accelerator, on a CPU all of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1
    world = torch.distributed.get_world_size()
    devices = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    return min(world, devices) if devices else world


def _tower(key: str) -> str:
    return key.rpartition("-")[2]


def _size(features: Tensor) -> int:
    return features.numel() * features.element_size()


class VisionEncoder:
    """The vision tower and the connector of a model, with what its image processor does.

    Args:
        family: of the model.
        frames: encodes frames.
        cache: what is kept while the tower is frozen.
    """

    def __init__(self, family: Family, frames: FrameEncoder, cache: VisionCache) -> None:
        self._family, self._frames = family, frames
        self._keeps = cache.keeps
        self._store = FeatureStore(cache)
        self._tower_state: tuple[Any, ...] = ()
        self._tower_digest = b""

    def encode_images(self, vlm: Any, scenes: Sequence[Tensor]) -> list[Tensor]:
        """Visual tokens of each scene, as of ``FrameEncoder.encode``.

        Args:
            vlm: the transformers model.
            scenes: B times uint8[M, 3, H, W].
        """
        scenes = [frames.to(vlm.device) for frames in scenes]
        parameters = self._family.active_vision_weights(vlm)
        is_trained = any(p.requires_grad for p in parameters)
        if is_trained and torch.is_grad_enabled():
            return self._frames.encode(vlm, scenes)
        with torch.no_grad():
            if is_trained or not self._keeps:
                return self._frames.encode(vlm, scenes)
            return self._recall(vlm, scenes, self._digest(vlm, parameters))

    def _recall(self, vlm: Any, scenes: Sequence[Tensor], tower: bytes) -> list[Tensor]:
        """Look scenes up, and encode those that are new.

        Their bits must not depend on their company: a run that goes on meets its scenes in other company than the one
        that was broken off.
        """
        keys = [store_key(scene, tower) for scene in fingerprints(scenes)]
        found = {key: self._store.get(key) for key in keys}
        missing = {key: frames for key, frames in zip(keys, scenes, strict=True) if found[key] is None}
        encoded = self._frames.encode_alike(vlm, list(missing.values()))
        for key, features in zip(missing, _moved(encoded, torch.device("cpu")), strict=True):
            self._store.put(key, features)
        kept = {key: features for key, features in found.items() if features is not None}
        seen = dict(zip(missing, encoded, strict=True))
        seen.update(zip(kept, _moved(list(kept.values()), vlm.device), strict=True))
        return [seen[key] for key in keys]

    def _digest(self, vlm: Any, parameters: list[Tensor]) -> bytes:
        """Of the tower's active weights, precision and settings; made again when a weight was written to."""
        device = vlm.device.type
        cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        state = (vlm.dtype, cast, *((id(p), p._version) for p in parameters))
        if state != self._tower_state:
            digest = hashlib.blake2b(repr((self._frames.settings, *state[:2])).encode(), digest_size=16)
            for parameter in parameters:
                digest.update(content_digest(parameter))
            self._tower_state, self._tower_digest = state, digest.digest()
        return self._tower_digest


def _moved(scenes: list[Tensor], device: torch.device) -> Sequence[Tensor]:
    """Tokens of scenes on a device, by one copy, which the host waits for once."""
    if not scenes or scenes[0].device == device:
        return scenes
    there = torch.cat(scenes).to(device, non_blocking=device.type != "cpu")
    return there.split([len(features) for features in scenes])
