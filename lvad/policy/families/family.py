"""What the engine has to be told of a family of vision-language models; all else is written once for all of them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from lvad.policy.adapters import active_weights, has_adapters
from lvad.policy.pixels import Images


class WrittenFrame(NamedTuple):
    """How one of the frames of a scene stands in its prompt."""

    ids: list[int]
    grid: Tensor | None = None
    """int64[3] on the CPU, its patches along time, height and width; None where positions do not depend on them."""


class FrameEncoder(Protocol):
    """Frames to visual tokens, and to their places in the prompt."""

    @property
    def settings(self) -> str:
        """All that the visual tokens depend on beside the weights and the frames."""
        ...

    def written(self, num_frames: int, height: int, width: int) -> WrittenFrame:
        """One of ``num_frames`` frames of a size, whatever they show."""
        ...

    def fewer_tokens(self, height: int, width: int) -> list[str]:
        """Settings of ``Images`` that make fewer tokens of a frame, the mildest first."""
        ...

    def encode(self, vlm: Any, scenes: Sequence[Tensor]) -> list[Tensor]:
        """Visual tokens float[V, L E] of B scenes' frames uint8[M, 3, H, W], in the order of their places.

        A token is L times E numbers side by side: its embedding, and what is added to the hidden states in its place
        behind each of the first L - 1 layers (DeepStack, Meng et al. 2024, arXiv:2406.04334).
        """
        ...

    def encode_alike(self, vlm: Any, scenes: Sequence[Tensor]) -> list[Tensor]:
        """Likewise, in bits that do not depend on the other scenes."""
        ...


class Family(NamedTuple):
    """A family of models."""

    vision: tuple[str, ...]
    """Names in ``vlm.model`` of what makes visual tokens: modules and parameters."""
    frames: Callable[[Any], FrameEncoder]
    """From a processor."""
    limit: Callable[[Images, Any, Any], None]
    """Changes a processor and its model's configuration, so that both are saved as they are used."""
    positions: Callable[[Any, Tensor, int, WrittenFrame], Tensor]
    """int64[A, P] on the CPU: the positions of a prompt int64[P] with so many frames, from the transformers model.

    A = 1, or 3 where time, height and width turn a part of each head (M-RoPE, Wang et al. 2024, arXiv:2409.12191).
    """
    vision_attention: str = "sdpa"
    """The attention of the vision encoder, by transformers' name."""

    def vision_modules(self, vlm: Any) -> list[nn.Module]:
        """The modules that make visual tokens."""
        return [part for part in self._vision_parts(vlm) if isinstance(part, nn.Module)]

    def active_vision_weights(self, vlm: Any) -> list[Tensor]:
        """What visual tokens depend on: all weights but those of adapters that are switched off."""
        bare = [part for part in self._vision_parts(vlm) if not isinstance(part, nn.Module)]
        return [*active_weights(*self.vision_modules(vlm)), *bare]

    def adapts_vision(self, vlm: Any) -> bool:
        """Whether visual tokens are others where adapters are switched off."""
        return has_adapters(*self.vision_modules(vlm))

    def freeze_vision(self, vlm: Any) -> None:
        """Take no gradient of what makes visual tokens."""
        for part in self._vision_parts(vlm):
            part.requires_grad_(False)

    def _vision_parts(self, vlm: Any) -> list[Any]:
        return [getattr(vlm.model, name) for name in self.vision]


def one_position_per_token(vlm: Any, ids: Tensor, num_frames: int, written: WrittenFrame) -> Tensor:
    """Positions of a prompt whose frames are counted like its words."""
    return torch.arange(len(ids)).unsqueeze(0)
