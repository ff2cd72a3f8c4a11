"""The inputs of the prompt pass: embeddings and positions of B prompts, with the visual tokens in their places."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lvad.policy.autograd_functions import Lookup
from lvad.policy.families.family import Family, FrameTokens
from lvad.policy.packing import upload


class ScenePrompt(NamedTuple):
    """The prompt of one scene: token ids and visual tokens."""

    scene: str
    """The id of the scene, for errors."""
    ids: Tensor
    """int64[P] on the CPU."""
    frame_tokens: FrameTokens
    """The tokens of each of its frames."""
    num_frames: int
    visual_tokens: Tensor
    """float[N, L E], as in ``FrameEncoder.encode``."""


class PromptInputs(NamedTuple):
    """The inputs of the prompt pass: B packed prompts with S tokens in all."""

    embeds: Tensor
    """float[S, E], visual tokens in place."""
    lengths: tuple[int, ...]
    """Tokens of each prompt."""
    positions: Tensor
    """int64[1, S], or int64[3, S] with M-RoPE (``Family.positions``), on the CPU."""
    deep: tuple[Tensor, ...] = ()
    """float[N, E] each, added to the hidden states of the N visual tokens after the first layers (DeepStack)."""
    is_visual: Tensor | None = None
    """bool[S], True on visual tokens; None where ``deep`` is empty."""


def prompt_inputs(vlm: Any, family: Family, lookup: Lookup, prompts: Sequence[ScenePrompt]) -> PromptInputs:
    """Embed and pack B prompts, visual tokens in place.

    Raises:
        ValueError: if visual tokens and their places in a prompt do not match in number.
    """
    size = vlm.config.text_config.hidden_size
    for prompt in prompts:
        places, (found, numbers) = int((prompt.ids == vlm.config.image_token_id).sum()), prompt.visual_tokens.shape
        if found != places or numbers % size:
            problem = f"{found} visual tokens for {places} places in the prompt, of {numbers} and {size} numbers each"
            raise ValueError(f"{prompt.scene}: {problem}")
    ids = torch.cat([prompt.ids for prompt in prompts])
    is_visual = ids == vlm.config.image_token_id
    embeds = lookup(upload(ids, vlm.device))
    first, *deep = torch.cat([prompt.visual_tokens for prompt in prompts]).to(embeds.dtype).split(size, -1)
    embeds = embeds.index_copy(0, upload(is_visual.nonzero().squeeze(1), vlm.device), first)
    positions = torch.cat([_positions(vlm, family, prompt) for prompt in prompts], 1)
    lengths = tuple(len(prompt.ids) for prompt in prompts)
    return PromptInputs(embeds, lengths, positions, tuple(deep), upload(is_visual, vlm.device) if deep else None)


def _positions(vlm: Any, family: Family, prompt: ScenePrompt) -> Tensor:
    """int64[1, P], or int64[3, P] with M-RoPE, on the CPU."""
    if family.positions is None:
        return torch.arange(len(prompt.ids)).unsqueeze(0)
    return family.positions(vlm, prompt.ids, prompt.num_frames, prompt.frame_tokens)
