"""Frames to visual tokens: each scene once, and with a frozen tower once for the whole run."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lvad.fingerprints import fingerprints
from lvad.ops import content_digest
from lvad.policy.adapters import active_weights
from lvad.policy.feature_store import FeatureStore, VisionCache, store_key
from lvad.policy.pixels import Tiling

TILE_ATTENTION: Final = "lvad_tiles"
"""The name under which transformers finds the attention of the vision tower."""
_TILES_ON_CPU: Final = 4
"""Tiles per call of the tower: its memory grows with their number, its time per tile does not fall."""
_TILES_ON_DEVICE: Final = 64
"""Likewise, where a call costs its launches: halved when memory runs out."""
_TILES_KEPT: Final = 32
"""In calls whose tokens are kept: fixed, see ``_recall``."""


class Eyes:
    """The vision tower and the connector of a model, with what its image processor does.

    Args:
        processor: of the model.
        cache: what is kept while the tower is frozen.

    Raises:
        ValueError: for settings of the image processor that are not known.
    """

    def __init__(self, processor: Any, cache: VisionCache) -> None:
        self._tiling = Tiling.of(processor.image_processor)
        self._keeps = cache.keeps
        self._store = FeatureStore(cache)
        self._tower_state: tuple[Any, ...] = ()
        self._tower_digest = b""
        self._at_once = _TILES_ON_DEVICE

    def look(self, vlm: Any, scenes: Sequence[Tensor]) -> list[Tensor]:
        """Visual tokens float[N, D] of each scene, in the order of its image tokens.

        Args:
            vlm: the transformers model.
            scenes: B times uint8[M, 3, H, W].
        """
        scenes = [frames.to(vlm.device) for frames in scenes]
        parameters = active_weights(vlm.model.vision_model, vlm.model.connector)
        is_trained = any(p.requires_grad for p in parameters)
        if is_trained and torch.is_grad_enabled():
            return self._encode(vlm, scenes)
        with torch.no_grad():
            if is_trained or not self._keeps:
                return self._encode(vlm, scenes)
            return self._recall(vlm, scenes, self._digest(vlm, parameters))

    def _recall(self, vlm: Any, scenes: Sequence[Tensor], tower: bytes) -> list[Tensor]:
        """Look scenes up, and encode those that are new so that their bits do not depend on their company.

        Products round otherwise in other shapes, and a run that goes on meets its scenes in other company than the
        one that was broken off. On a CPU each scene is encoded by itself. On a device that would leave most of it
        idle: there several scenes share calls of one fixed shape, filled up with tiles of zeros, in which every tile
        is reckoned by the same kernels.
        """
        keys = [store_key(scene, tower) for scene in fingerprints(scenes)]
        found = {key: self._store.get(key) for key in keys}
        missing = {key: frames for key, frames in zip(keys, scenes, strict=True) if found[key] is None}
        if _is_cpu(vlm):
            encoded = [self._encode(vlm, [frames])[0] for frames in missing.values()]
        else:
            encoded = self._encode(vlm, list(missing.values()), _TILES_KEPT) if missing else []
        for key, features in zip(missing, _moved(encoded, torch.device("cpu")), strict=True):
            self._store.put(key, features)
        kept = {key: features for key, features in found.items() if features is not None}
        seen = dict(zip(missing, encoded, strict=True))
        seen.update(zip(kept, _moved(list(kept.values()), vlm.device), strict=True))
        return [seen[key] for key in keys]

    def _digest(self, vlm: Any, parameters: list[Tensor]) -> bytes:
        """Of the tower's active weights and precision and of the tiling; made again when a weight was written to."""
        device = vlm.device.type
        cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        state = (vlm.dtype, cast, *((id(p), p._version) for p in parameters))
        if state != self._tower_state:
            digest = hashlib.blake2b(repr((self._tiling, *state[:2])).encode(), digest_size=16)
            for parameter in parameters:
                digest.update(content_digest(parameter))
            self._tower_state, self._tower_digest = state, digest.digest()
        return self._tower_digest

    def _encode(self, vlm: Any, scenes: Sequence[Tensor], fixed: int | None = None) -> list[Tensor]:
        """All scenes together, in calls of ``fixed`` tiles or of as many as are good on the device."""
        tiles = self._cut(scenes)
        rows = torch.cat(tiles)

        def features(part: Tensor) -> Tensor:
            return _features(vlm, self._tiling.pixel_values(part).to(vlm.dtype))

        if fixed is not None:
            filled = F.pad(rows, (0, 0) * 3 + (0, -len(rows) % fixed))
            seen = torch.cat([features(part) for part in filled.split(fixed)])[: len(rows)]
        elif _is_cpu(vlm):
            seen = torch.cat([features(part) for part in rows.split(_TILES_ON_CPU)])
        else:
            seen = self._as_many_as_fit(features, rows)
        return [part.flatten(0, 1) for part in seen.split([len(part) for part in tiles])]

    def _cut(self, scenes: Sequence[Tensor]) -> list[Tensor]:
        """uint8[T, 3, S, S] of each scene; frames of one size go through together."""
        sizes: dict[torch.Size, list[int]] = {}
        for index, frames in enumerate(scenes):
            sizes.setdefault(frames.shape[2:], []).append(index)
        cut: dict[int, Tensor] = {}
        for alike in sizes.values():
            tiles = self._tiling.tiles(torch.cat([scenes[i] for i in alike]))
            parts = tiles.split([len(scenes[i]) for i in alike])
            cut.update((i, part.flatten(0, 1)) for i, part in zip(alike, parts, strict=True))
        return [cut[index] for index in range(len(scenes))]

    def _as_many_as_fit(self, features: Callable[[Tensor], Tensor], tiles: Tensor) -> Tensor:
        while True:
            try:
                return torch.cat([features(part) for part in tiles.split(self._at_once)])
            except torch.OutOfMemoryError:
                # With a gradient every call's activations are kept, so that smaller calls need as much.
                if self._at_once == 1 or torch.is_grad_enabled():
                    raise
                self._at_once //= 2


def _moved(scenes: list[Tensor], device: torch.device) -> Sequence[Tensor]:
    """Tokens of scenes on a device, by one copy, which the host waits for once."""
    if not scenes or scenes[0].device == device:
        return scenes
    there = torch.cat(scenes).to(device, non_blocking=device.type != "cpu")
    return there.split([len(features) for features in scenes])


def _is_cpu(vlm: Any) -> bool:
    return vlm.device.type == "cpu"


def _features(vlm: Any, pixels: Tensor) -> Tensor:
    """float[tiles, tokens, D] of float[tiles, 3, S, S].

    Transformers' ``get_image_features`` leaves out tiles of zeros, for which the host waits for the device, and a
    fixed shape would not stay.
    """
    side = pixels.shape[-1] // vlm.config.vision_config.patch_size
    is_seen = torch.ones(len(pixels), side, side, dtype=torch.bool, device=pixels.device)
    output = vlm.model.vision_model(pixel_values=pixels, patch_attention_mask=is_seen)
    return vlm.model.connector(output.last_hidden_state)


# Tiles are seen whole. Transformers would ask the device whether they are; it builds no mask for an attention that it
# knows no mask function of.
AttentionInterface.register(TILE_ATTENTION, sdpa_attention_forward)
