"""The sampler for accelerators: static shapes, so that decoding one token is one launch of a captured CUDA graph.

For every token the same kernels run on the same addresses. What changes lies in tensors on the device: the counter, the
last tokens, the keys and values. So the host reads nothing while it samples, except every few tokens whether all
completions have ended. A graph is kept for later rollouts of the same shape. Rows that have ended are computed on, and
their tokens are masked.

The sampled distribution is that of ``sample_completions``: with the same random numbers both draw the same tokens. The
automaton of a grammar runs on the host and reads each token; the rest of such a token is captured all the same.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lvad.ops import entropy, gather_logps
from lvad.policy.adapters import is_lora_layer
from lvad.policy.decoder import TokenPass
from lvad.policy.grammar import GrammarStates
from lvad.policy.passes import PromptCache
from lvad.policy.sampling import Samples, Sampling, StopCriteria, next_token_logps, sample_tokens
from lvad.policy.static_kv_cache import StaticKVCache, StaticShape
from lvad.policy.static_linear import StaticWeights
from lvad.types import Rollouts

_CHECK_EVERY = 8  # tokens; each check of whether all have ended waits for the device
_KEPT = 3  # samplers: of training, of validation, of a last batch; each holds keys and values


class SamplerOptions(NamedTuple):
    """What a sampler is built for, beside the shapes."""

    sampling: Sampling
    stop: StopCriteria
    is_greedy: bool
    has_grammar: bool


class StaticSampler:
    """Samples R = B K completions of T tokens in tensors that are allocated once.

    Args:
        vlm: the model; its layers may be adapted or quantised.
        banned: bool[V], True on tokens that can never be drawn.
        options: sampling options, stop criteria, and whether there is a grammar.
        shape: B, K, and the lengths of prompts and completions.
        prompt_cache: an example of the prompts, from which layers, heads and dtype are taken.
        use_cuda_graph: capture the decoding of one token, and replay it for every other.
    """

    def __init__(
        self,
        vlm: Any,
        banned: Tensor,
        options: SamplerOptions,
        shape: StaticShape,
        prompt_cache: PromptCache,
        use_cuda_graph: bool = False,
    ) -> None:
        self._options, self._shape, self._embed = options, shape, vlm.get_input_embeddings()
        self._weights = StaticWeights()
        self._token_pass = TokenPass(vlm.get_decoder(), self._weights.fuse)
        self._head = self._weights.fuse([vlm.lm_head])
        self._kv_cache = StaticKVCache(shape, prompt_cache)
        self._banned = banned.expand(shape.num_rows, -1).clone() if options.has_grammar else banned
        device, table = banned.device, (options.stop.max_new_tokens, shape.num_rows)
        float_type = torch.promote_types(prompt_cache.last.dtype, torch.float32)
        self._tokens, self._given = (torch.zeros(table, dtype=torch.long, device=device) for _ in range(2))
        self._mask, self._is_given = (torch.zeros(table, dtype=torch.bool, device=device) for _ in range(2))
        self._logps, self._entropies = (torch.zeros(table, dtype=float_type, device=device) for _ in range(2))
        self._uniform = torch.zeros(table, device=device)
        self._last = torch.zeros(shape.num_rows, dtype=torch.long, device=device)
        self._alive = torch.zeros(shape.num_rows, dtype=torch.bool, device=device)
        self._end_ids = torch.tensor(options.stop.end_ids, device=device)
        self._num_drawn = torch.zeros(1, dtype=torch.long, device=device)
        self._next: Callable[[], None] = self._decode_token
        if use_cuda_graph and self._weights.can_be_captured and options.stop.max_new_tokens > 1:
            self._weights.refresh()
            with torch.cuda.device(device):
                self._next = _captured(self._decode_token, self._rewind)

    @torch.no_grad()
    def __call__(
        self, prompt_cache: PromptCache, grammar_states: GrammarStates | None, begin: Rollouts | None
    ) -> Samples:
        """Sample K completions of each prompt; arguments as in ``sample_completions``."""
        num_rows = len(prompt_cache.lengths) * self._shape.num_completions
        self._load(prompt_cache, num_rows, begin)
        self._ban(grammar_states)
        hidden = prompt_cache.last.repeat_interleave(self._shape.num_completions, 0)
        padded = hidden.new_zeros(self._shape.num_rows, hidden.shape[1])
        padded[:num_rows] = hidden
        self._sample(padded)
        for step in range(1, self._options.stop.max_new_tokens):
            if step % _CHECK_EVERY == 0 and not self._alive.any():
                break
            if grammar_states is not None:
                grammar_states = grammar_states.after(self._last[:num_rows])
                self._ban(grammar_states)
            self._next()
        return self._samples(num_rows)

    def _load(self, prompt_cache: PromptCache, num_rows: int, begin: Rollouts | None) -> None:
        self._weights.refresh()
        self._kv_cache.load(prompt_cache)
        self._rewind()
        self._mask.zero_()
        self._alive.zero_()
        self._alive[:num_rows] = True
        self._is_given.zero_()
        if begin is not None:
            tokens, is_given = (x.flatten(0, 1).t() for x in (begin.tokens, begin.completion_mask))
            given = slice(min(len(tokens), len(self._given)))
            self._given[given, :num_rows], self._is_given[given, :num_rows] = tokens[given], is_given[given]
        if not self._options.is_greedy:
            # One random number per completion and token, ended or not: the draws of a row do not depend on the others.
            self._uniform[:, :num_rows] = torch.rand(len(self._uniform), num_rows, device=self._uniform.device)

    def _rewind(self) -> None:
        self._num_drawn.zero_()
        self._kv_cache.rewind()

    def _ban(self, grammar_states: GrammarStates | None) -> None:
        if grammar_states is not None:
            self._banned[: len(grammar_states.states)] = grammar_states.banned(self._banned.device)

    def _decode_token(self) -> None:
        """Feed the last tokens, and sample the next; this is what a CUDA graph captures."""
        self._kv_cache.unmask_next()
        hidden = self._token_pass(self._embed(self._last), self._kv_cache.positions, self._kv_cache.attend)
        self._kv_cache.advance()
        self._sample(hidden)

    def _sample(self, hidden: Tensor) -> None:
        """Sample one token of each row from the hidden states that predict them, and write it to the tables."""
        step = self._num_drawn
        logps = next_token_logps(self._head(hidden), self._options.sampling, self._banned)
        token = sample_tokens(logps, None if self._options.is_greedy else self._uniform.index_select(0, step)[0])
        is_given, given = (x.index_select(0, step)[0] for x in (self._is_given, self._given))
        token = torch.where(is_given, given, token).masked_fill(~self._alive, self._options.stop.pad_id)
        columns = (token, gather_logps(logps, token), entropy(logps), self._alive)
        for table, column in zip((self._tokens, self._logps, self._entropies, self._mask), columns, strict=True):
            table.index_copy_(0, step, column.unsqueeze(0))
        self._alive &= (token.unsqueeze(1) != self._end_ids).all(1)
        self._last.copy_(token)
        step += 1  # in place: this is the counter itself, which the next replay reads

    def _samples(self, num_rows: int) -> Samples:
        """Copy the tables of the rows that are no padding."""
        num_steps = int(self._mask.any(1).sum())
        tables = (self._tokens, self._mask, self._logps, self._entropies)
        tokens, mask, logps, entropies = (x[:num_steps, :num_rows].t().clone() for x in tables)
        return Samples(tokens, mask, logps.where(mask, 0.0), entropies.where(mask, 0.0), self._alive[:num_rows].clone())


class StaticSamplerCache:
    """The samplers of the last shapes and options, with their CUDA graphs."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, StaticSampler] = OrderedDict()

    def __deepcopy__(self, memo: dict[int, Any]) -> "StaticSamplerCache":
        """Return an empty cache: a copied policy has its weights at other addresses."""
        return StaticSamplerCache()

    def get(
        self,
        vlm: Any,
        banned: Tensor,
        options: SamplerOptions,
        prompt_cache: PromptCache,
        num_completions: int,
        use_cuda_graph: bool,
    ) -> StaticSampler:
        """Find or build the sampler for such prompts.

        Args:
            vlm: as in ``StaticSampler``.
            banned: as in ``StaticSampler``.
            options: as in ``StaticSampler``.
            prompt_cache: of the prompts.
            num_completions: K.
            use_cuda_graph: as in ``StaticSampler``.
        """
        shape = StaticShape.rounded_up(prompt_cache.lengths, num_completions, options.stop.max_new_tokens)
        key = (options, shape, use_cuda_graph, prompt_cache.keys[0].dtype, _weights_key(vlm, banned))
        if key not in self._kept:
            # Drop the oldest first: the new one may need its memory.
            while len(self._kept) >= _KEPT:
                self._kept.popitem(last=False)
            with torch.inference_mode(False), torch.no_grad():  # tensors made in validation must be usable in training
                self._kept[key] = StaticSampler(vlm, banned, options, shape, prompt_cache, use_cuda_graph)
        self._kept.move_to_end(key)
        return self._kept[key]


def _weights_key(vlm: Any, banned: Tensor) -> tuple[Any, ...]:
    """What a captured graph depends on: the addresses and dtypes of the weights, and which adapters are on."""
    device = banned.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    read = [*vlm.get_decoder().parameters(), vlm.get_input_embeddings().weight, vlm.lm_head.weight, banned]
    adapters = [
        (tuple(layer.active_adapters), layer.disable_adapters, layer.merged)
        for layer in vlm.get_decoder().modules()
        if is_lora_layer(layer)
    ]
    return (dtype, *adapters, *((tensor.data_ptr(), tensor.dtype) for tensor in read))


def _captured(call: Callable[[], None], rewind: Callable[[], None]) -> Callable[[], None]:
    """Capture a call as a CUDA graph.

    Raises:
        RuntimeError: if the device refuses to capture one of its kernels, with the remedy.
    """
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    try:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # warm up: libraries allocate memory in their first calls
            for _ in range(2):
                rewind()
                call()
        torch.cuda.current_stream().wait_stream(stream)
        rewind()
        # A data loader's thread may be pinning memory, which the default error mode would forbid while capturing.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            call()
    except RuntimeError as error:
        raise RuntimeError(f"the sampler cannot be captured ({error}); set the policy's cuda_graphs: false") from error
    return graph.replay
