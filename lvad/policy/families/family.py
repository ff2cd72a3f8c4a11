"""What the engine needs to know of a family of vision-language models; all other code is the same for all families."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from lvad.policy.pixels import ImageOptions


class FrameTokens(NamedTuple):
    """The tokens that stand for one frame in a prompt."""

    ids: list[int]
    """Token ids: image tokens, and what the family writes between them."""
    grid: Tensor | None = None
    """int64[3] on the CPU, the frame's patches along time, height and width; None where positions do not need them."""


class FrameEncoder(Protocol):
    """Encodes frames as visual tokens, and knows the token ids that hold their places in a prompt."""

    @property
    def settings(self) -> str:
        """All that the visual tokens depend on beside the weights and the frames."""
        ...

    def frame_tokens(self, num_frames: int, height: int, width: int) -> FrameTokens:
        """The tokens of one frame in a prompt with ``num_frames`` frames of this size, whatever they show."""
        ...

    def fewer_tokens(self, height: int, width: int) -> list[str]:
        """Image options that give a frame fewer tokens, the smallest reduction first."""
        ...

    def encode(self, vlm: Any, scenes: Sequence[Tensor]) -> list[Tensor]:
        """Encode B scenes' frames uint8[M, 3, H, W] as N visual tokens each, float[N, L E], in the order of the prompt.

        A visual token is L times E numbers: its embedding, and with DeepStack (Meng et al. 2024, arXiv:2406.04334) what
        is added to its hidden state after each of the first L - 1 layers.
        """
        ...

    def encode_batch_invariant(self, vlm: Any, scenes: Sequence[Tensor]) -> list[Tensor]:
        """Encode likewise, such that the bits of a scene do not depend on the other scenes of the call."""
        ...


class Family(NamedTuple):
    """A family of models."""

    vision: tuple[str, ...]
    """The attributes of ``vlm.model`` that compute visual tokens: modules and parameters."""
    frame_encoder: Callable[[Any], FrameEncoder]
    """Makes the frame encoder of a processor."""
    limit: Callable[[ImageOptions, Any, Any], None]
    """Applies ``ImageOptions`` to a processor and its model's configuration, so that both are saved as used."""
    positions: Callable[[Any, Tensor, int, FrameTokens], Tensor] | None = None
    """Computes the positions of a prompt, int64[1, P], or int64[3, P] with M-RoPE (Wang et al. 2024, arXiv:2409.12191),
    where time, height and width each rotate a part of a head; on the CPU. It is given the transformers model, the ids
    int64[P], the number of frames and the tokens of a frame. None counts all tokens alike: 0 to P - 1.
    """
    vision_attention: str = "sdpa"
    """The attention of the vision encoder, by transformers' name."""
