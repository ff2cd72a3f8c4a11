"""Completions that grow token by token behind prompts whose keys and values are read where they lie."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lvad.policy.attention import Part, attend, merged_output
from lvad.policy.grammar import GrammarStates
from lvad.policy.layout import lay_out, lay_out_prompts
from lvad.policy.passes import PromptCache
from lvad.policy.sampling import Sampling, log_density
from lvad.policy.token_pass import TokenPass, product


class Decoder:
    """R completions still alive, each with room of its own for its tokens' keys and values.

    Args:
        text_model: whose weights stay as they are for as long as the decoder is used.
        prompt_cache: B prompts.
        num_completions: K behind each, so that R = B K at first.
        room: tokens that each can be fed.
    """

    def __init__(self, text_model: Any, prompt_cache: PromptCache, num_completions: int, room: int) -> None:
        self.prompt_cache, self.room = prompt_cache, room
        batch, device = len(prompt_cache.lengths), prompt_cache.last.device
        self._scene = torch.arange(batch, device=device).repeat_interleave(num_completions)
        self._start = torch.tensor(prompt_cache.starts, device=device)
        self._read = TokenPass(text_model, partial(product, num_rows=self.num_alive))
        self._own: dict[int, tuple[Tensor, Tensor]] = {}
        self._num_fed = 0
        self._among: list[int] = []
        self._prompts: list[list[tuple[Tensor, Tensor]]] = []
        self._place()

    @property
    def num_alive(self) -> int:
        """R."""
        return len(self._scene)

    def advance(self, embeds: Tensor) -> Tensor:
        """The next states float[R, E], from the embeddings float[R, E] of the last tokens."""
        hidden = self._read(embeds, self._start[self._scene] + self._num_fed, self._attend)
        self._num_fed += 1
        return hidden

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the completions: int64[R'], ascending."""
        self._scene = self._scene[rows]
        for layer, kept in list(self._own.items()):
            like = kept[0][: len(rows), 0]  # one token's keys, for their number and shape
            for new, old in zip(self._make_room(layer, like), kept, strict=True):
                new[:, : self._num_fed] = old[rows, : self._num_fed]
        self._place()

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        own_k, own_v = self._own.get(layer) or self._make_room(layer, k)
        own_k[:, self._num_fed], own_v[:, self._num_fed] = k, v
        seen = self._num_fed + 1
        # One query, the last token, which sees all that its completion has: nothing is left to hide.
        own = attend(q.unsqueeze(1), own_k[:, :seen], own_v[:, :seen], scale, causal=False)
        groups = zip(self._layout.split_scenes(q), self._prompts[layer], strict=True)
        parts = [attend(queries, *keys, scale, causal=False) for queries, keys in groups]
        prompt = Part(*(self._layout.join([x.flatten(0, 1) for x in column]) for column in zip(*parts, strict=True)))
        return merged_output(prompt, Part(*(x.squeeze(1) for x in own)))

    def _make_room(self, layer: int, k: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(k), self.room, *k.shape[1:])
        self._own[layer] = (k.new_empty(shape), k.new_empty(shape))
        return self._own[layer]

    def _place(self) -> None:
        counts = torch.bincount(self._scene, minlength=len(self.prompt_cache.lengths)).tolist()
        alive = [scene for scene, count in enumerate(counts) if count]
        device = self._scene.device
        if not self._prompts or 2 * len(alive) <= len(self._among):
            # Leaving prompts behind costs a copy of the others.
            self._among = alive
            prompts = lay_out_prompts(self.prompt_cache.lengths, device, alive)
            self._prompts = [
                list(zip(prompts.split_scenes(k.detach()), prompts.split_scenes(v.detach()), strict=True))
                for k, v in zip(self.prompt_cache.keys, self.prompt_cache.values, strict=True)
            ]
        is_alive = [[int(k < count) for k in range(max(counts))] for count in counts]
        self._layout = lay_out(is_alive, self.prompt_cache.lengths, device, self._among)


class DensityDecoder:
    """A decoder with the head and the law: one token at a time, in the sampled density.

    Args:
        vlm: the transformers model whose text model the decoder reads.
        decoder: where the completions stand.
        sampling: the law.
        banned: bool[V], tokens that can never be drawn; a grammar has masks of its own.
    """

    def __init__(self, vlm: Any, decoder: Decoder, sampling: Sampling, banned: Tensor) -> None:
        self._embed, self._decoder = vlm.get_input_embeddings(), decoder
        self._head = product([vlm.lm_head], decoder.num_alive)
        self._sampling, self._banned = sampling, banned
        self.keep = decoder.keep

    def density(self, hidden: Tensor, grammar_states: GrammarStates | None) -> Tensor:
        """float[R, V], as of ``TokenDecoder``."""
        banned = grammar_states.banned(self._banned.device) if grammar_states else self._banned
        return log_density(self._head(hidden), self._sampling, banned)

    def advance(self, tokens: Tensor) -> Tensor:
        """float[R, D], as of ``TokenDecoder``."""
        return self._decoder.advance(self._embed(tokens))
