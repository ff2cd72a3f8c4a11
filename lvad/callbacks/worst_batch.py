"""A training step on the worst batch, tried before the first one: what does not fit fails at once."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image
from torch import Tensor, nn

from lvad.data.collate import collate, decode_scene
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.decoding import frame_size
from lvad.data.images import reduced_size
from lvad.errors import DataError, DoesNotFit
from lvad.objectives.regularisation import AdaptiveKL
from lvad.ops import kept_random_state
from lvad.policy.tokens import PromptIds
from lvad.types import Batch, Prefix, Rollouts, Scene

_LOOKED_AT: Final = 512
"""Scenes whose pictures' sizes are read."""


class TrialStep(NamedTuple):
    """What a step on the worst batch took."""

    prompt_tokens: int
    """Of all its scenes; 0 without a policy."""
    completion_tokens: int
    """Of all completions or right answers; 0 without a policy."""
    saved_bytes: int
    """What the forward kept for the backward, weights apart: each storage once."""
    peak_bytes: int | None
    """The most that was allocated on the device, weights included; None on a CPU."""
    time_s: float


class _TokenCounts:
    """Tokens of all prompts that were read, and of all completions that a gradient was asked of."""

    prompt_tokens = 0
    completion_tokens = 0


def worst_scenes(
    scenes: Sequence[Scene],
    num_frames: int,
    count: int,
    image_size_px: int | None = None,
    frame_tokens: Callable[[int, int, int], int] | None = None,
) -> list[Scene]:
    """The scenes with the most tokens of frames, then the most frames, the largest pictures, the longest answers.

    Args:
        scenes: to choose from; the pictures of some hundreds of them, evenly spaced, are measured.
        num_frames: M, the most frames of a scene that are shown.
        count: how many.
        image_size_px: longest edge of a frame after reduction.
        frame_tokens: of a height, a width and a number of frames, what one of them is; None where no policy tells,
            and frames come first.
    """
    shown = [min(len(scene.frames), num_frames) for scene in scenes]
    longest = [scene for scene, frames in zip(scenes, shown, strict=True) if frames == max(shown)]
    # Fewer frames that are cut into more tiles can be more tokens.
    others = [scene for scene, frames in zip(scenes, shown, strict=True) if frames < max(shown) and frame_tokens]
    looked_at = [scene for some in (longest, others) for scene in some[:: max(1, len(some) // _LOOKED_AT)]]

    def cost(scene: Scene) -> tuple[int, ...]:
        frames, (width, height) = min(len(scene.frames), num_frames), _size(scene, image_size_px)
        tokens = frames * frame_tokens(height, width, frames) if frame_tokens and width else 0
        return tokens, frames, width * height, sum(scene.reasons or ())

    worst = sorted(looked_at, key=cost, reverse=True)[:count]
    return [*worst, *(scene for scene in scenes if scene not in worst)][:count]


def worst_batch(data: BDDOIADataModule, policy: Any = None) -> Batch | None:
    """As many scenes as a training step sees on one device; None where there are none at all.

    Args:
        data: after its setup.
        policy: that will see them, if there is one; an ``HFPolicy`` tells which scenes make the longest prompts.

    Raises:
        DataError: if a frame cannot be read.
    """
    scenes = data.scenes["train"] or data.scenes["val"]  # a stream lists no training scenes
    if not scenes:
        return None
    frame_tokens = getattr(getattr(policy, "prompt_ids", None), "frame_tokens", None)
    chosen = worst_scenes(scenes, data.source.num_frames, data.batch_size, data.source.image_size_px, frame_tokens)
    return collate(
        [(scene, decode_scene(scene, data.source.num_frames, data.source.image_size_px)) for scene in chosen],
        data.taxonomy,
    )


def try_step(trainer: Trainer, module: LightningModule, batch: Batch, room_bytes: int = 0) -> TrialStep:
    """A forward and a backward with every completion at its longest, which leave no trace.

    Args:
        trainer: at the start of a fit.
        module: on its device.
        batch: the worst one, on the CPU.
        room_bytes: what will lie beside a later step, and is kept free.

    Raises:
        DoesNotFit: if memory runs out, with what helps.
    """
    is_cuda = module.device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(module.device)
    start_s = time.perf_counter()
    with _no_trace(module), _at_its_longest(getattr(module, "policy", None)) as seen, _counted(module) as saved:
        try:
            room = torch.empty(room_bytes, dtype=torch.uint8, device=module.device)
            moved = trainer.strategy.batch_to_device(batch)
            with trainer.precision_plugin.train_step_context():
                output: Any = module.training_step(moved, 1)
            loss: Tensor = output["loss"] if isinstance(output, dict) else output
            saved.is_on = False
            loss.backward()
            del room
        except (MemoryError, RuntimeError) as error:  # the device's own is a RuntimeError
            if not _is_out_of_memory(error):
                raise
            raise DoesNotFit(_remedy(module, batch, error)) from error
    peak = torch.cuda.max_memory_allocated(module.device) if is_cuda else None
    return TrialStep(seen.prompt_tokens, seen.completion_tokens, saved.total, peak, time.perf_counter() - start_s)


def longest_completion(policy: Any) -> int | None:
    """The most tokens that a policy says; None if it does not tell."""
    return getattr(getattr(policy, "sampling", None), "max_new_tokens", None)


def _size(scene: Scene, image_size_px: int | None) -> tuple[int, int]:
    """Width and height of its last frame."""
    try:
        return reduced_size(frame_size(scene.frames[-1]), image_size_px)
    except (OSError, DataError, Image.DecompressionBombError, IndexError):
        return 0, 0  # decoding it says what is wrong


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _remedy(module: LightningModule, batch: Batch, error: BaseException) -> str:
    policy, size = getattr(module, "policy", None), len(batch.ids)
    tall, wide = max(tuple(frames.shape[-2:]) for frames in batch.frames)
    prompt_ids: PromptIds | None = getattr(policy, "prompt_ids", None)
    helps = [f"policy {fewer}" for fewer in prompt_ids.frames.fewer_tokens(tall, wide)] if prompt_ids else []
    if size > 1 and getattr(getattr(module, "regularisation", None), "updates", 1) == 1:
        helps.append(f"data.batch_size {size // 2} with trainer.accumulate_grad_batches doubled")
    if policy is not None and getattr(policy, "completions_at_once", 1) is None:
        helps.append("policy completions_at_once 2")
    if policy is not None and not getattr(getattr(policy, "vlm", None), "is_gradient_checkpointing", True):
        helps.append("policy gradient_checkpointing true")
    tokens = prompt_ids and prompt_ids.frame_tokens
    # Most processors scale every frame to one size, whatever it was reduced to.
    if tokens is None or tokens(tall, wide) > tokens(-(-tall // 2), -(-wide // 2)):
        helps.append("a smaller data.source.image_size_px")
    if max(map(len, batch.frames)) > 1:
        helps.append("a smaller data.source.num_frames")
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return (
        f"the worst batch does not fit into memory ({size} scenes of up to {max(map(len, batch.frames))} frames of "
        f"{wide}x{tall}): {said}; what helps: {'; '.join(helps or ['see docs/scale.md'])}"
    )


@contextmanager
def _no_trace(module: LightningModule) -> Iterator[None]:
    """Random numbers, buffers, gradients, the weight of a KL, descriptions and logs are afterwards as before."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    describer, kl = getattr(module, "describer", None), getattr(module, "kl", None)
    weight = kl.state_dict() if isinstance(kl, AdaptiveKL) else {}
    known = copy.copy(describer.known) if describer is not None else {}
    try:
        with (
            isolate_rng(include_cuda=False),
            kept_random_state(module.device),
            _replaced(module, log=_nothing, log_dict=_nothing),
        ):
            yield
    finally:
        module.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        if describer is not None:
            describer.known = known
        if isinstance(kl, AdaptiveKL):
            kl.load_state_dict(weight)


@contextmanager
def _at_its_longest(policy: Any) -> Iterator[_TokenCounts]:
    """Completions go on to ``max_new_tokens``, where they ended before with their first token again and again."""
    seen = _TokenCounts()
    if policy is None:
        yield seen
        return
    encode, generate, logprobs = policy.encode, policy.generate, policy.logprobs

    def counted_encode(*args: Any, **kwargs: Any) -> Prefix:
        prefix = encode(*args, **kwargs)
        seen.prompt_tokens += sum(prefix.lengths)
        return prefix

    def long_generate(*args: Any, **kwargs: Any) -> Rollouts:
        rollouts = generate(*args, **kwargs)
        length = longest_completion(policy)
        return rollouts if length is None or kwargs.get("grammar") else _lengthened(rollouts, length)

    def counted_logprobs(prefix: Prefix, rollouts: Rollouts, *args: Any, **kwargs: Any) -> Tensor:
        seen.completion_tokens += int(rollouts.completion_mask.sum())
        return logprobs(prefix, rollouts, *args, **kwargs)

    with _replaced(policy, encode=counted_encode, generate=long_generate, logprobs=counted_logprobs):
        yield seen


def _lengthened(rollouts: Rollouts, length: int) -> Rollouts:
    missing = length - rollouts.tokens.shape[-1]
    widened = {
        name: nn.functional.pad(getattr(rollouts, name), (0, missing))
        for name in ("tokens", "completion_mask", "logps", "entropies")
    }
    mask = widened.pop("completion_mask")
    tokens = torch.where(mask, widened.pop("tokens"), rollouts.tokens[..., :1])
    return rollouts._replace(tokens=tokens, completion_mask=torch.ones_like(mask), **widened)


class _Saved:
    """Bytes that the forward keeps."""

    def __init__(self, weights: set[int]) -> None:
        self.counted, self.total, self.is_on = weights, 0, True

    def pack(self, kept: Tensor) -> Tensor:
        storage = kept.untyped_storage()
        if self.is_on and storage.data_ptr() not in self.counted:
            self.counted.add(storage.data_ptr())
            self.total += storage.nbytes()
        return kept


@contextmanager
def _counted(module: nn.Module) -> Iterator[_Saved]:
    saved = _Saved({p.untyped_storage().data_ptr() for p in [*module.parameters(), *module.buffers()]})
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda kept: kept):
        yield saved


@contextmanager
def _replaced(owner: Any, **methods: Any) -> Iterator[None]:
    """Methods of one object, for the time of a block."""
    before = {name: vars(owner)[name] for name in methods if name in vars(owner)}
    vars(owner).update(methods)
    try:
        yield
    finally:
        for name in methods:
            del vars(owner)[name]
        vars(owner).update(before)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """In place of logging, which Lightning allows in its loops only."""
