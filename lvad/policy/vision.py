"""The vision encoder with a cache of visual tokens: each scene is encoded once, or once per run if it is frozen."""

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
from torch import Tensor, nn

from lvad.ops import content_digest, fingerprints
from lvad.policy.adapters import active_weights, has_adapters
from lvad.policy.families.family import Family, FrameEncoder

_BYTES_PER_MB: Final = 2**20
_SHARE_OF_FREE: Final = 0.25
_CONTROL_GROUPS: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class VisionCache:
    """Where the visual tokens of a frozen vision encoder are kept, so that it encodes each scene only once.

    A tile of SmolVLM-256M is 64 tokens of 576 numbers: 0.07 MB in bfloat16, 0.14 MB in float32. The 16,000 training
    scenes of BDD-OIA take 15 GB in bfloat16 at 13 tiles, 8 GB at 7 and 1.2 GB at one. Scenes that do not fit are
    encoded again in every epoch, with the same bits.

    Args:
        memory_mb: the most memory to use; None takes a quarter of what is free when the first scene is kept, shared
            by the processes of the machine; 0 keeps none.
        folder: also keep them in files of this folder, without limit, for later runs and other processes.
    """

    memory_mb: int | None = None
    folder: str | None = None

    def __post_init__(self) -> None:
        if self.memory_mb is not None and self.memory_mb < 0:
            raise ValueError(f"memory_mb must be >= 0 (0 keeps none), got {self.memory_mb}")

    @property
    def keeps(self) -> bool:
        """Whether anything is kept, in memory or in files."""
        return self.memory_mb != 0 or self.folder is not None


def store_key(scene: bytes, encoder: bytes) -> str:
    """Cache key of a scene's visual tokens: hash of the frames, hash of encoder and settings."""
    return f"{scene.hex()}-{encoder.hex()}"


class FeatureStore:
    """Caches visual tokens in memory and in files, by the keys of ``store_key``.

    When memory is full, tokens of earlier states of the encoder are evicted, the least recently used first. Tokens of
    the same state are never evicted; new ones are not kept instead. In a shuffled epoch over twice as many scenes as
    fit, half of the look-ups succeed that way; with eviction of the oldest it would be one in seven.
    """

    def __init__(self, cache: VisionCache) -> None:
        self._max_bytes = None if cache.memory_mb is None else cache.memory_mb * _BYTES_PER_MB
        self._folder = Path(cache.folder) if cache.folder else None
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


class VisionEncoder:
    """The vision encoder of a model, its connector and image processing included, with a cache of visual tokens.

    Args:
        family: of the model.
        frames: encodes frames.
        cache: where visual tokens are kept while the encoder is frozen.
    """

    def __init__(self, family: Family, frames: FrameEncoder, cache: VisionCache) -> None:
        self._family, self._frames = family, frames
        self._keeps = cache.keeps
        self._store = FeatureStore(cache)
        self._state: tuple[Any, ...] = ()
        self._state_digest = b""

    def freeze(self, vlm: Any) -> None:
        """Take no gradient of any weight that computes visual tokens."""
        for part in self._parts(vlm):
            part.requires_grad_(False)

    def is_adapted(self, vlm: Any) -> bool:
        """Whether the visual tokens change when adapters are switched off."""
        return has_adapters(*self._modules(vlm))

    def encode_images(self, vlm: Any, scenes: Sequence[Tensor]) -> list[Tensor]:
        """Encode each scene, as in ``FrameEncoder.encode``, or look it up where it is known.

        Args:
            vlm: the transformers model.
            scenes: B times uint8[M, 3, H, W].
        """
        scenes = [frames.to(vlm.device) for frames in scenes]
        weights = self._active_weights(vlm)
        is_trained = any(weight.requires_grad for weight in weights)
        if is_trained and torch.is_grad_enabled():
            return self._frames.encode(vlm, scenes)
        with torch.no_grad():
            if is_trained or not self._keeps:
                return self._frames.encode(vlm, scenes)
            return self._look_up(vlm, scenes, self._digest(vlm, weights))

    def _look_up(self, vlm: Any, scenes: Sequence[Tensor], encoder: bytes) -> list[Tensor]:
        """Look scenes up, and encode those that are new.

        The bits of a scene must not depend on which others are new: a resumed run encodes scenes in other batches than
        the run that it continues.
        """
        keys = [store_key(scene, encoder) for scene in fingerprints(scenes)]
        found = {key: self._store.get(key) for key in keys}
        missing = {key: frames for key, frames in zip(keys, scenes, strict=True) if found[key] is None}
        encoded = self._frames.encode_batch_invariant(vlm, list(missing.values()))
        for key, features in zip(missing, _moved(encoded, torch.device("cpu")), strict=True):
            self._store.put(key, features)
        kept = {key: features for key, features in found.items() if features is not None}
        tokens = dict(zip(missing, encoded, strict=True))
        tokens.update(zip(kept, _moved(list(kept.values()), vlm.device), strict=True))
        return [tokens[key] for key in keys]

    def _digest(self, vlm: Any, weights: list[Tensor]) -> bytes:
        """Hash of the encoder's active weights, precision and settings; computed again after a weight was written."""
        device = vlm.device.type
        cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        state = (vlm.dtype, cast, *((id(weight), weight._version) for weight in weights))
        if state != self._state:
            digest = hashlib.blake2b(repr((self._frames.settings, *state[:2])).encode(), digest_size=16)
            for weight in weights:
                digest.update(content_digest(weight))
            self._state, self._state_digest = state, digest.digest()
        return self._state_digest

    def _active_weights(self, vlm: Any) -> list[Tensor]:
        """The weights that visual tokens depend on: all but those of adapters that are switched off."""
        parameters = [part for part in self._parts(vlm) if not isinstance(part, nn.Module)]
        return [*active_weights(*self._modules(vlm)), *parameters]

    def _modules(self, vlm: Any) -> list[nn.Module]:
        return [part for part in self._parts(vlm) if isinstance(part, nn.Module)]

    def _parts(self, vlm: Any) -> list[Any]:
        """The modules and bare parameters that compute visual tokens."""
        return [getattr(vlm.model, name) for name in self._family.vision]


def _moved(scenes: list[Tensor], device: torch.device) -> Sequence[Tensor]:
    """Move the visual tokens of all scenes to a device in one copy, so that the host waits only once."""
    if not scenes or scenes[0].device == device:
        return scenes
    moved = torch.cat(scenes).to(device, non_blocking=device.type != "cpu")
    return moved.split([len(features) for features in scenes])
