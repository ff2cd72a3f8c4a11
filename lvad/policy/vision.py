"""The vision encoder with a cache of visual tokens: each scene is encoded once, or once per run if it is frozen."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lvad.ops import content_digest, fingerprints
from lvad.policy.adapters import active_weights, has_adapters
from lvad.policy.families.family import Family, FrameEncoder
from lvad.policy.visual_token_cache import VisualTokenCache, cache_key


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


class VisionEncoder:
    """The vision encoder of a model, its connector and image processing included, with a cache of visual tokens.

    Args:
        family: of the model.
        frame_encoder: encodes frames.
        cache: where visual tokens are kept while the encoder is frozen.
    """

    def __init__(self, family: Family, frame_encoder: FrameEncoder, cache: VisionCache) -> None:
        self._family, self._frame_encoder = family, frame_encoder
        self._keeps = cache.keeps
        self._cache = VisualTokenCache(cache.memory_mb, cache.folder)
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
            return self._frame_encoder.encode(vlm, scenes)
        with torch.no_grad():
            if is_trained or not self._keeps:
                return self._frame_encoder.encode(vlm, scenes)
            return self._look_up(vlm, scenes, self._digest(vlm, weights))

    def _look_up(self, vlm: Any, scenes: Sequence[Tensor], encoder: bytes) -> list[Tensor]:
        """Look scenes up, and encode those that are new.

        The bits of a scene must not depend on which others are new: a resumed run encodes scenes in other batches than
        the run that it continues.
        """
        keys = [cache_key(scene, encoder) for scene in fingerprints(scenes)]
        found = {key: self._cache.get(key) for key in keys}
        missing = {key: frames for key, frames in zip(keys, scenes, strict=True) if found[key] is None}
        encoded = self._frame_encoder.encode_batch_invariant(vlm, list(missing.values()))
        for key, features in zip(missing, _moved(encoded, torch.device("cpu")), strict=True):
            self._cache.put(key, features)
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
            digest = hashlib.blake2b(repr((self._frame_encoder.settings, *state[:2])).encode(), digest_size=16)
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
