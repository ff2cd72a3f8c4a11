"""Frames to visual tokens: each scene once, and with a frozen tower once for the whole run."""

import hashlib
import os
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lvad.ops import content_digest
from lvad.policy.adapters import active_weights

_TILES_AT_ONCE = 4  # tiles per call of the tower: its memory grows with their number
_BYTES_PER_MB = 2**20


@dataclass(frozen=True)
class VisionCache:
    """Where the visual tokens of a frozen tower are kept, so that each scene is encoded once and not once per epoch.

    Args:
        memory_mb: at most so much memory, least recently used scenes leave first; 0 keeps none. One tile of
            SmolVLM-256M takes 0.14 MB.
        folder: also keep them in files there, without a bound, for later runs and other processes.
    """

    memory_mb: int = 512
    folder: str | None = None

    def __post_init__(self) -> None:
        if self.memory_mb < 0:
            raise ValueError(f"memory_mb must be >= 0 (0 keeps none), got {self.memory_mb}")


class FeatureStore:
    """Visual tokens by a key, in memory and in files."""

    def __init__(self, cache: VisionCache) -> None:
        self._room = cache.memory_mb * _BYTES_PER_MB
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
        size = features.numel() * features.element_size()
        if size > self._room or key in self._kept:
            return
        self._kept[key] = features
        self.num_bytes += size
        while self.num_bytes > self._room:
            _, oldest = self._kept.popitem(last=False)
            self.num_bytes -= oldest.numel() * oldest.element_size()


class Eyes:
    """The vision tower and the connector of a model, with their image processor.

    Args:
        processor: of the model.
        cache: what is kept while the tower is frozen.
    """

    def __init__(self, processor: Any, cache: VisionCache) -> None:
        self._processor = processor
        self._keeps = cache.memory_mb > 0 or cache.folder is not None
        self._store = FeatureStore(cache)
        self._tower_state: tuple[Any, ...] = ()
        self._tower_digest = b""

    def look(self, vlm: Any, scenes: Sequence[Tensor]) -> list[Tensor]:
        """Visual tokens float[N, D] of each scene, in the order of its image tokens.

        Args:
            vlm: the transformers model.
            scenes: B times uint8[M, 3, H, W].
        """
        parameters = active_weights(vlm.model.vision_model, vlm.model.connector)
        if torch.is_grad_enabled() and any(p.requires_grad for p in parameters):
            return self._encode(vlm, scenes)
        with torch.no_grad():
            if not self._keeps or any(p.requires_grad for p in parameters):
                return self._encode(vlm, scenes)
            return self._recall(vlm, scenes, self._digest(vlm, parameters))

    def _recall(self, vlm: Any, scenes: Sequence[Tensor], tower: bytes) -> list[Tensor]:
        keys = [content_digest(frames, tower).hex() for frames in scenes]
        found = {key: self._store.get(key) for key in keys}
        missing = {key: frames for key, frames in zip(keys, scenes, strict=True) if found[key] is None}
        for key, frames in missing.items():
            # Each by itself: products round otherwise in other company, and a run that goes on meets its scenes in
            # other company than the one that was broken off.
            (features,) = self._encode(vlm, [frames])
            self._store.put(key, features)
            found[key] = features
        return [features.to(vlm.device) for key in keys if (features := found[key]) is not None]

    def _digest(self, vlm: Any, parameters: list[Tensor]) -> bytes:
        """Of the tower's active weights and the processor's settings; made again when a weight was written to."""
        state = (vlm.dtype, torch.is_autocast_enabled(vlm.device.type), *((id(p), p._version) for p in parameters))
        if state != self._tower_state:
            digest = hashlib.blake2b(self._processor.image_processor.to_json_string().encode())
            digest.update(repr(state[:2]).encode())
            for parameter in parameters:
                digest.update(content_digest(parameter))
            self._tower_state, self._tower_digest = state, digest.digest()
        return self._tower_digest

    def _encode(self, vlm: Any, scenes: Sequence[Tensor]) -> list[Tensor]:
        """Scenes of one shape have equally many tiles, so nothing is padded."""
        shapes: dict[torch.Size, list[int]] = {}
        for index, frames in enumerate(scenes):
            shapes.setdefault(frames.shape, []).append(index)
        features: dict[int, Tensor] = {}
        for alike in shapes.values():
            inputs = self._processor.image_processor([list(scenes[i]) for i in alike], return_tensors="pt")
            pixels, is_seen = (inputs[name].flatten(0, 1) for name in ("pixel_values", "pixel_attention_mask"))
            parts = zip(pixels.split(_TILES_AT_ONCE), is_seen.split(_TILES_AT_ONCE), strict=True)
            seen = torch.cat([_features(vlm, tiles, mask) for tiles, mask in parts])
            features.update(zip(alike, seen.flatten(0, 1).chunk(len(alike)), strict=True))
        return [features[index] for index in range(len(scenes))]


def _features(vlm: Any, tiles: Tensor, is_seen: Tensor) -> Tensor:
    """float[tiles, tokens, D]."""
    tiles, is_seen = tiles[None].to(vlm.device), is_seen[None].to(vlm.device)
    output = vlm.model.get_image_features(tiles, is_seen).pooler_output
    features = output[0] if isinstance(output, list | tuple) else output
    return features.reshape(tiles.shape[1], -1, features.shape[-1])
