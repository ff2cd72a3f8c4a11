"""Tries a training step on the worst batch before the first step, so that one that does not fit fails at once."""

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
"""Number of scenes whose pictures' sizes are read."""


class TrialStep(NamedTuple):
    """Tokens, memory and time of a trial step on the worst batch."""

    prompt_tokens: int
    """Of all its scenes; 0 without a policy."""
    completion_tokens: int
    """Of all completions or right answers; 0 without a policy."""
    saved_bytes: int
    """Bytes that the forward pass kept for the backward pass, weights apart: each storage once."""
    peak_bytes: int | None
    """The most that was allocated on the device, weights included; None on a CPU."""
    time_s: float


class _TokenCounts:
    """Tokens of all prompts that were encoded, and of all completions whose log-probabilities were computed."""

    prompt_tokens = 0
    completion_tokens = 0


def worst_scenes(
    scenes: Sequence[Scene],
    num_frames: int,
    count: int,
    image_size_px: int | None = None,
    frame_tokens: Callable[[int, int, int], int] | None = None,
) -> list[Scene]:
    """Choose the scenes with the most frame tokens, then the most frames, the largest pictures, the longest answers.

    Args:
        scenes: to choose from; the pictures of some hundreds of them, evenly spaced, are measured.
        num_frames: M, the most frames of a scene that are shown.
        count: how many.
        image_size_px: longest edge of a frame after reduction.
        frame_tokens: gives the tokens of one frame from height, width and number of frames; None if the policy
            cannot tell, and the number of frames comes first.
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
    """Build the worst batch of one device's training step; None if there are no scenes at all.

    Args:
        data: after its setup.
        policy: the policy of the stage, if it has one; an ``HFPolicy`` tells which scenes make the longest prompts.

    Raises:
        DataError: if a frame cannot be read.
    """
    scenes = data.scenes["train"] or data.scenes["val"]  # a stream lists no training scenes
    if not scenes:
        return None
    frame_tokens = getattr(getattr(policy, "prompt_ids", None), "num_frame_tokens", None)
    chosen = worst_scenes(scenes, data.source.num_frames, data.batch_size, data.source.image_size_px, frame_tokens)
    return collate(
        [(scene, decode_scene(scene, data.source.num_frames, data.source.image_size_px)) for scene in chosen],
        data.taxonomy,
    )


def try_step(trainer: Trainer, module: LightningModule, batch: Batch, later_step_bytes: int = 0) -> TrialStep:
    """Run a forward and a backward pass with every completion at its longest, and restore the state afterwards.

    Args:
        trainer: at the start of a fit.
        module: on its device.
        batch: the worst one, on the CPU.
        later_step_bytes: memory that a later step needs besides, reserved during the trial.

    Raises:
        DoesNotFit: if memory runs out, with what helps.
    """
    is_cuda = module.device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(module.device)
    start_s = time.perf_counter()
    with (
        _restored_state(module),
        _at_its_longest(getattr(module, "policy", None)) as seen,
        _counted_activations(module) as saved,
    ):
        try:
            reserved = torch.empty(later_step_bytes, dtype=torch.uint8, device=module.device)
            moved = trainer.strategy.batch_to_device(batch)
            with trainer.precision_plugin.train_step_context():
                output: Any = module.training_step(moved, 1)
            loss: Tensor = output["loss"] if isinstance(output, dict) else output
            saved.stop()
            loss.backward()
            del reserved
        except (MemoryError, RuntimeError) as error:  # the device's own is a RuntimeError
            if not _is_out_of_memory(error):
                raise
            raise DoesNotFit(_remedy(module, batch, error)) from error
    peak = torch.cuda.max_memory_allocated(module.device) if is_cuda else None
    return TrialStep(seen.prompt_tokens, seen.completion_tokens, saved.total, peak, time.perf_counter() - start_s)


def longest_completion(policy: Any) -> int | None:
    """Return the most tokens of a completion; None if the policy does not tell."""
    return getattr(getattr(policy, "sampling", None), "max_new_tokens", None)


def _size(scene: Scene, image_size_px: int | None) -> tuple[int, int]:
    """Return width and height of a scene's last frame."""
    try:
        return reduced_size(frame_size(scene.frames[-1]), image_size_px)
    except (OSError, DataError, Image.DecompressionBombError, IndexError):
        return 0, 0  # decoding will raise the error


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _remedy(module: LightningModule, batch: Batch, error: BaseException) -> str:
    policy, size = getattr(module, "policy", None), len(batch.ids)
    tall, wide = max(tuple(frames.shape[-2:]) for frames in batch.frames)
    prompt_ids: PromptIds | None = getattr(policy, "prompt_ids", None)
    helps = [f"policy {fewer}" for fewer in prompt_ids.frame_encoder.fewer_tokens(tall, wide)] if prompt_ids else []
    if size > 1 and getattr(getattr(module, "regularisation", None), "updates", 1) == 1:
        helps.append(f"data.batch_size {size // 2} with trainer.accumulate_grad_batches doubled")
    if policy is not None and getattr(policy, "completions_at_once", 1) is None:
        helps.append("policy completions_at_once 2")
    if policy is not None and not getattr(getattr(policy, "vlm", None), "is_gradient_checkpointing", True):
        helps.append("policy gradient_checkpointing true")
    tokens = prompt_ids and prompt_ids.num_frame_tokens
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
def _restored_state(module: LightningModule) -> Iterator[None]:
    """Restore random numbers, buffers, gradients, a KL's weight and descriptions after a block that logs nothing."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    describer, kl = getattr(module, "describer", None), getattr(module, "kl", None)
    weight = kl.state_dict() if isinstance(kl, AdaptiveKL) else {}
    kept = describer.kept_descriptions() if describer is not None else {}
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
            describer.restore_descriptions(kept)
        if isinstance(kl, AdaptiveKL):
            kl.load_state_dict(weight)


@contextmanager
def _at_its_longest(policy: Any) -> Iterator[_TokenCounts]:
    """Lengthen completions to ``max_new_tokens`` in a block, by repeating their first token; count the tokens."""
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


class _ActivationBytes:
    """Counts the bytes that a forward pass keeps for the backward pass, weights apart.

    Args:
        weights: addresses of the weights' storages, which are not counted.
    """

    def __init__(self, weights: set[int]) -> None:
        self.counted, self.total, self._is_counting = weights, 0, True

    def stop(self) -> None:
        """Stop counting: the backward pass saves tensors of its own."""
        self._is_counting = False

    def pack(self, kept: Tensor) -> Tensor:
        """Count a tensor that autograd saves; a storage counts once."""
        storage = kept.untyped_storage()
        if self._is_counting and storage.data_ptr() not in self.counted:
            self.counted.add(storage.data_ptr())
            self.total += storage.nbytes()
        return kept


@contextmanager
def _counted_activations(module: nn.Module) -> Iterator[_ActivationBytes]:
    saved = _ActivationBytes({p.untyped_storage().data_ptr() for p in [*module.parameters(), *module.buffers()]})
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda kept: kept):
        yield saved


@contextmanager
def _replaced(owner: Any, **methods: Any) -> Iterator[None]:
    """Replace methods of one object inside a block."""
    before = {name: vars(owner)[name] for name in methods if name in vars(owner)}
    vars(owner).update(methods)
    try:
        yield
    finally:
        for name in methods:
            del vars(owner)[name]
        vars(owner).update(before)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stand in for logging, which Lightning allows in its loops only."""
