"""Small tensor functions shared by the losses, the policies and the data."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

_WORD_BYTES: Final = 4


def content_digest(values: Tensor, salt: bytes = b"") -> bytes:
    """Hash shape and content to 16 bytes, the same on every device: one id may have other pixels after augmentation."""
    digest = hashlib.blake2b(salt + repr(tuple(values.shape)).encode(), digest_size=16)
    # Hash a copy: NumPy keeps a weight's storage alive, and FSDP2 must free it after a step.
    copy = values.detach().cpu().clone(memory_format=torch.contiguous_format)
    digest.update(copy.view(torch.uint8).numpy().data)
    return digest.digest()


def fingerprints(tensors: Sequence[Tensor]) -> list[bytes]:
    """Hash shape, type and content of each tensor to 16 bytes, the same on every device, in one read by the host.

    ``content_digest`` needs the bytes on the host: 22 MB for 8 frames of 1280x720, which is a copy that waits for the
    device, and 20 ms of hashing. Here a device adds up its words, each times a number of its own, modulo 2^64; the
    host reads 16 bytes a tensor.

    This is multilinear hashing (Lemire and Kaser 2014, arXiv:1202.4961) of 32-bit words by two sequences of 64-bit
    numbers. Two different words differ by less than 2^32, so two different tensors have the same sum for at most one in
    2^33 sequences, and both sums for one in 2^66: any two of a million scenes share a fingerprint with a probability
    below 2^-26. The sequences are fixed: this is no protection from scenes that are made to collide.

    Args:
        tensors: on one device, of any shapes.
    """
    groups: dict[tuple[torch.Size, torch.dtype], list[int]] = {}
    for index, values in enumerate(tensors):
        groups.setdefault((values.shape, values.dtype), []).append(index)
    if not groups:
        return []
    sums = torch.cat([_sums(torch.stack([tensors[i].detach() for i in alike])) for alike in groups.values()])
    rows = sums.tolist()  # the only read from the device
    found: dict[int, bytes] = {}
    for (shape, dtype), alike in groups.items():
        for index in alike:
            text = repr((tuple(shape), dtype, rows.pop(0)))
            found[index] = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return [found[index] for index in range(len(tensors))]


def _sums(values: Tensor) -> Tensor:
    """Weighted sums of the words of N tensors by two sequences of factors, int64[N, 2]."""
    content = values.reshape(len(values), -1).view(torch.uint8)
    words = F.pad(content, (0, -content.shape[1] % _WORD_BYTES)).view(torch.int32).long()
    return torch.stack([(words * factors).sum(1) for factors in _factors(words.shape[1], words.device)], 1)


@lru_cache(maxsize=8)
def _factors(length: int, device: torch.device) -> Tensor:
    """Pseudo-random factors int64[2, length]: SplitMix64 (Steele, Lea and Flood 2014) of their positions."""
    places = torch.arange(1, 2 * length + 1, device=device).view(2, length)
    mixed = places * _signed(0x9E3779B97F4A7C15)
    mixed = (mixed ^ _shifted(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(0x94D049BB133111EB)
    return mixed ^ _shifted(mixed, 31)


def _signed(number: int) -> int:
    return number - 2**64


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Shift to the right, filling with zeros from the left."""
    return (values >> bits) & (2 ** (64 - bits) - 1)


def on_host(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move numbers float[] to the CPU, detached, with one wait for the device instead of one for each."""
    away = {name: value.detach().float() for name, value in values.items() if value.device.type != "cpu"}
    read = dict(zip(away, torch.stack(list(away.values())).cpu().unbind(), strict=True)) if away else {}
    return {name: read[name] if name in read else value.detach() for name, value in values.items()}


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Restore the random states of the CPU and of this device after a block.

    Not of all devices: on those of other processes this one would create a context.
    """
    if device.type == "cpu":
        with torch.random.fork_rng([]):
            yield
        return
    with torch.random.fork_rng([device], device_type=device.type):
        yield


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw with this seed inside a block, and restore the random states afterwards."""
    with kept_random_state(device):
        torch.manual_seed(seed)
        yield


def gather_logps(logps: Float[Tensor, "*batch V"], tokens: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Select the entry of each token in its row of log-probabilities."""
    return logps.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def entropy(logps: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch"]:
    """Entropy in nats of normalised log-probabilities, of which some may be -inf (probability zero)."""
    return -(logps.exp() * logps).masked_fill(logps.isneginf(), 0.0).sum(-1)


def sequence_sum(values: Float[Tensor, "B K T"], completion_mask: Bool[Tensor, "B K T"]) -> Float[Tensor, "B K"]:
    """Sum over the tokens of each completion."""
    return torch.where(completion_mask, values, 0.0).sum(-1)


def running_mean(mean: Float[Tensor, "*shape"], value: Float[Tensor, "*shape"], count: int) -> Float[Tensor, "*shape"]:
    """Update a mean to that of ``count`` values, with ``value`` the last and ``mean`` that of those before.

    Raises:
        ValueError: for a count below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return value.clone() if count == 1 else mean + (value - mean) / count


def action_weights(actions: Int[Tensor, "N A"] | Bool[Tensor, "N A"]) -> Float[Tensor, " N"]:
    """Weight each scene by the rarest of its true actions, so that always answering "stop" does not pay.

    w_n = max over its true actions of 1 / share of the action, normalised to mean 1: one formula for balanced sampling
    and for a weighted loss. Where every scene has a single action, the weights of each action's scenes have the same
    sum. With several in a scene that holds no longer: what is common beside a rare action stays the more common one.
    A scene without any action counts like those of the most common one.

    Args:
        actions: zeros and ones.

    Returns:
        Positive weights with mean 1 (denominator: the scenes).

    Raises:
        ValueError: without scenes, or for entries other than 0 and 1.

    Source:
        Gupta et al. 2019 (arXiv:1908.03195), Appendix B.2: the factor of an image is the largest of its categories'.
        There a category's factor is max(1, sqrt(t / share)), which leaves categories above the share t alone; here it
        is 1 / share, inverse frequency.
    """
    if not len(actions):
        raise ValueError("no scenes to weigh")
    if not ((actions == 0) | (actions == 1)).all():
        raise ValueError(f"actions must be 0 or 1, got {sorted(actions.unique().tolist())[:5]}; label every scene")
    labels = actions.float()
    rarity = 1 / labels.mean(0).clamp(min=1 / len(labels))
    rarest = (labels * rarity).amax(1)
    weights = torch.where(rarest > 0, rarest, rarity.min())
    return weights / weights.mean()
