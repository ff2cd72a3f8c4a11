"""Frames to visual tokens: each scene once, and with a frozen tower once for the whole run."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lvad.fingerprints import fingerprints
from lvad.ops import content_digest
from lvad.policy.families.family import Family, FrameEncoder
from lvad.policy.feature_store import FeatureStore, VisionCache, store_key


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
