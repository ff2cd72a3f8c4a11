"""Small tensor functions shared by the losses, the policies and the data."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def content_digest(values: Tensor, salt: bytes = b"") -> bytes:
    """16 bytes of shape and content, the same on every device: an id may name other pixels after an augmentation."""
    digest = hashlib.blake2b(salt + repr(tuple(values.shape)).encode(), digest_size=16)
    # Of a copy: once NumPy has seen a weight's storage it cannot be freed, as sharing weights out does after a step.
    copy = values.detach().cpu().clone(memory_format=torch.contiguous_format)
    digest.update(copy.view(torch.uint8).numpy().data)
    return digest.digest()


def on_host(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Numbers float[] on the CPU, detached: those of a device are waited for once, and not once for each."""
    away = {name: value.detach().float() for name, value in values.items() if value.device.type != "cpu"}
    read = dict(zip(away, torch.stack(list(away.values())).cpu().unbind(), strict=True)) if away else {}
    return {name: read[name] if name in read else value.detach() for name, value in values.items()}


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Leave the random states of the CPU and of this device as they were.

    Not of all devices: those of other processes would each get a context of this one.
    """
    if device.type == "cpu":
        with torch.random.fork_rng([]):
            yield
        return
    with torch.random.fork_rng([device], device_type=device.type):
        yield


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw with this seed for the time of a block, and leave the random states as they were."""
    with kept_random_state(device):
        torch.manual_seed(seed)
        yield


def gather_logps(logps: Float[Tensor, "*batch V"], tokens: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The entry of each token in its row of log-probabilities."""
    return logps.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def entropy(logps: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch"]:
    """Entropy in nats of normalised log-probabilities, of which some may be -inf (probability zero)."""
    return -(logps.exp() * logps).masked_fill(logps.isneginf(), 0.0).sum(-1)


def sequence_sum(values: Float[Tensor, "B K T"], completion_mask: Bool[Tensor, "B K T"]) -> Float[Tensor, "B K"]:
    """Sum over the tokens of each completion."""
    return torch.where(completion_mask, values, 0.0).sum(-1)


def running_mean(mean: Float[Tensor, "*shape"], value: Float[Tensor, "*shape"], count: int) -> Float[Tensor, "*shape"]:
    """The mean of ``count`` values, of which ``value`` is the last and ``mean`` that of those before (any for 1).

    Raises:
        ValueError: for a count below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return value.clone() if count == 1 else mean + (value - mean) / count


def action_weights(actions: Int[Tensor, "N A"] | Bool[Tensor, "N A"]) -> Float[Tensor, " N"]:
    """How much each scene should count, by the rarest of its true actions: against always-stop.

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
