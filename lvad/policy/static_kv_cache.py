"""A key-value cache of static shapes, and the attention to it, for sampling under a CUDA graph.

Each of R = B K completions attends to the prompt of its scene, whose keys are not copied for its K completions, and to
its own tokens. One softmax is taken over both, side by side. A bias of -inf hides the padding after shorter prompts
and the places of tokens to come. The host reads no value.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lvad.policy.packing import upload
from lvad.policy.passes import PromptCache
from lvad.policy.plain_attention import wide_product


class StaticShape(NamedTuple):
    """The sizes that a captured graph is valid for."""

    num_scenes: int
    """B, some of which may be padding."""
    num_completions: int
    """K."""
    prompt_tokens: int
    """P, positions for each prompt."""
    new_tokens: int
    """T, positions for each completion."""

    @property
    def num_rows(self) -> int:
        """R = B K."""
        return self.num_scenes * self.num_completions

    @classmethod
    def rounded_up(cls, lengths: tuple[int, ...], num_completions: int, new_tokens: int) -> "StaticShape":
        """Round the sizes of a batch up, so that few captured graphs serve all batches; at most a quarter is padding.

        Args:
            lengths: of B prompts.
            num_completions: K.
            new_tokens: the most tokens of a completion.
        """
        return cls(_rounded(len(lengths), 1), num_completions, _rounded(max(lengths), 16), -(-new_tokens // 8) * 8)


class StaticKVCache:
    """Keys and values of B prompts and of their R completions, in tensors that are allocated once.

    Args:
        shape: the sizes.
        prompt_cache: an example, from which layers, heads and dtype are taken.
    """

    def __init__(self, shape: StaticShape, prompt_cache: PromptCache) -> None:
        self.shape = shape
        _, self._num_groups, size = prompt_cache.keys[0].shape
        new, device = prompt_cache.keys[0].new_zeros, prompt_cache.keys[0].device
        layers = len(prompt_cache.keys)
        prompts = (layers, shape.num_scenes, self._num_groups, shape.prompt_tokens, size)
        own = (layers, shape.num_rows, self._num_groups, shape.new_tokens, size)
        self._prompt_k, self._prompt_v, self._own_k, self._own_v = new(prompts), new(prompts), new(own), new(own)
        self._dtype = prompt_cache.keys[0].dtype
        self._wide = torch.promote_types(self._dtype, torch.float32)
        num_keys = shape.prompt_tokens + shape.new_tokens
        # float[B, K, 1, 1, P + T]: 0 on the keys that a row attends to.
        bias = torch.full((shape.num_scenes, shape.num_completions, 1, 1, num_keys), -torch.inf, dtype=self._wide)
        self._bias = bias.to(device)
        self._start = torch.zeros(shape.num_rows, dtype=torch.long, device=device)
        self._num_fed = torch.zeros(1, dtype=torch.long, device=device)

    @property
    def positions(self) -> Tensor:
        """int64[R], the positions of the tokens that are fed next."""
        return self._start + self._num_fed

    def load(self, prompt_cache: PromptCache) -> None:
        """Replace the prompts, and forget all completions."""
        shape, device = self.shape, self._bias.device
        lengths = torch.tensor(prompt_cache.lengths)
        places = torch.arange(shape.prompt_tokens)
        is_there = torch.zeros(shape.num_scenes, shape.prompt_tokens, dtype=torch.bool)
        is_there[: len(lengths)] = places < lengths.unsqueeze(1)
        firsts = torch.nn.functional.pad(lengths.cumsum(0) - lengths, (0, shape.num_scenes - len(lengths)))
        # Padding repeats token 0; the bias hides it.
        tokens = upload((firsts.unsqueeze(1) + places).where(is_there, 0).flatten(), device)
        for cache, packed in ((self._prompt_k, prompt_cache.keys), (self._prompt_v, prompt_cache.values)):
            found = torch.stack([x.detach() for x in packed]).index_select(1, tokens)
            cache.copy_(found.unflatten(1, (shape.num_scenes, -1)).transpose(2, 3))
        starts = torch.zeros(shape.num_scenes, dtype=torch.long)
        starts[: len(lengths)] = torch.tensor(prompt_cache.starts)
        self._start.copy_(starts.repeat_interleave(shape.num_completions), non_blocking=True)
        bias = torch.full((shape.num_scenes, 1, 1, 1, shape.prompt_tokens), -torch.inf, dtype=self._wide)
        bias[is_there.view(bias.shape)] = 0
        self._bias.fill_(-torch.inf)
        self._bias[..., : shape.prompt_tokens] = upload(bias, device)
        # A hidden value has weight 0, and 0 times inf or NaN of an earlier rollout would not be 0.
        self._own_v.zero_()
        self._own_k.zero_()
        self.rewind()

    def rewind(self) -> None:
        """Begin again at the first new token."""
        self._num_fed.zero_()

    def unmask_next(self) -> None:
        """Let every row attend to the token that is fed next."""
        # The index is a tensor on the device: a captured graph would repeat a number of the host for ever.
        self._bias.index_fill_(-1, self._num_fed + self.shape.prompt_tokens, 0)

    def advance(self) -> None:
        """Count the token that was fed."""
        self._num_fed += 1  # in place, like every write here: a graph knows addresses

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Add k and v float[R, G, D] to the cache, and attend from q float[R, H, D]: float[R, H, D]."""
        q, k, v = (x.to(self._dtype) for x in (q, k, v))
        own_k, own_v = self._own_k[layer], self._own_v[layer]
        own_k.index_copy_(2, self._num_fed, k.unsqueeze(2))
        own_v.index_copy_(2, self._num_fed, v.unsqueeze(2))
        prompt_k, prompt_v = self._prompt_k[layer].flatten(0, 1), self._prompt_v[layer].flatten(0, 1)
        q = q.unflatten(1, (self._num_groups, -1))  # float[R, G, H / G, D]
        to_prompt = wide_product(self._by_scene(q), prompt_k.transpose(1, 2))
        to_own = wide_product(q.flatten(0, 1), own_k.flatten(0, 1).transpose(1, 2))
        scores = torch.cat([self._by_row(to_prompt), self._own_by_row(to_own)], -1)
        probs = torch.add(self._bias, scores, alpha=scale).softmax(-1)
        of_prompt, of_own = probs.split([self.shape.prompt_tokens, self.shape.new_tokens], -1)
        of_prompt = self._by_scene(of_prompt.to(self._dtype).flatten(0, 1))
        of_own = of_own.to(self._dtype).flatten(0, 2)
        from_prompt = self._by_row(wide_product(of_prompt, prompt_v))
        from_own = self._own_by_row(wide_product(of_own, own_v.flatten(0, 1)))
        return (from_prompt + from_own).to(self._dtype).flatten(0, 1).flatten(1, 2)

    def _by_scene(self, rows: Tensor) -> Tensor:
        """float[B G, K H / G, N] from float[R, G, H / G, N]."""
        scenes = rows.unflatten(0, (self.shape.num_scenes, -1)).transpose(1, 2)
        return scenes.flatten(2, 3).flatten(0, 1)

    def _by_row(self, scenes: Tensor) -> Tensor:
        """float[B, K, G, H / G, N] from float[B G, K H / G, N]."""
        shape = (self.shape.num_scenes, self._num_groups, self.shape.num_completions, -1, scenes.shape[-1])
        return scenes.view(shape).transpose(1, 2)

    def _own_by_row(self, rows: Tensor) -> Tensor:
        """float[B, K, G, H / G, N] from float[R G, H / G, N]."""
        return rows.view(self.shape.num_scenes, self.shape.num_completions, self._num_groups, *rows.shape[1:])


def _rounded(number: int, least: int) -> int:
    """Round up to a multiple of ``least``, and large numbers to a multiple of an eighth to a quarter of them."""
    step = max(least, 1 << max(0, number.bit_length() - 3))
    return -(-number // step) * step
