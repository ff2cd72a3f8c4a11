"""Prompts and their visual tokens, put together as the text model takes them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lvad.policy.embedding import Lookup
from lvad.policy.families.family import Family, WrittenFrame
from lvad.policy.layout import upload
from lvad.policy.passes import PromptInputs


class ScenePrompt(NamedTuple):
    """The prompt of one scene."""

    scene: str
    ids: Tensor
    """int64[P] on the CPU."""
    num_frames: int
    frame: WrittenFrame
    """How each of its frames stands in it."""
    features: Tensor
    """float[V, L E], its visual tokens as of ``FrameEncoder.encode``."""


def prompt_inputs(vlm: Any, family: Family, lookup: Lookup, prompts: Sequence[ScenePrompt]) -> PromptInputs:
    """B prompts one after the other.

    Raises:
        ValueError: if visual tokens and their places in a prompt do not match in number.
    """
    size = vlm.config.text_config.hidden_size
    for asked in prompts:
        places, (found, numbers) = int((asked.ids == vlm.config.image_token_id).sum()), asked.features.shape
        if found != places or numbers % size:
            problem = f"{found} visual tokens for {places} places in the prompt, of {numbers} and {size} numbers each"
            raise ValueError(f"{asked.scene}: {problem}")
    ids = torch.cat([asked.ids for asked in prompts])
    is_visual = ids == vlm.config.image_token_id
    embeds = lookup(upload(ids, vlm.device))
    first, *deep = torch.cat([asked.features for asked in prompts]).to(embeds.dtype).split(size, -1)
    embeds = embeds.index_copy(0, upload(is_visual.nonzero().squeeze(1), vlm.device), first)
    positions = torch.cat([family.positions(vlm, asked.ids, asked.num_frames, asked.frame) for asked in prompts], 1)
    lengths = tuple(len(asked.ids) for asked in prompts)
    return PromptInputs(embeds, lengths, positions, tuple(deep), upload(is_visual, vlm.device) if deep else None)
