"""Score right texts, probes and candidates; the frames of a scene are read once for all of them."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lvad.audit.probes import FLIPPED
from lvad.audit.right_texts import RightTexts
from lvad.data.augment import mirror_batch, select_scenes
from lvad.types import Batch, Reward, Rollouts


class AuditScores(NamedTuple):
    """The rewards of right texts, probes and candidates, on the CPU."""

    right: Tensor
    """float64[N]; NaN where a scene has no right text."""
    probes: dict[str, Tensor]
    """float64[N] per probe; NaN where the scene does not qualify."""
    candidates: Tensor | None
    """float64[N, C]; None where the source has no candidates."""


def texts_as_rollouts(texts: list[list[str]], device: torch.device) -> Rollouts:
    """Turn texts into rollouts, for rewards that read tokens as well: one token per word, then an end token.

    Args:
        texts: B times K texts.
        device: device of the tensors.

    Returns:
        Rollouts with equal tokens for equal words; ``logps`` and ``entropies`` are 0, as no policy sampled them.
    """
    vocabulary: dict[str, int] = {}
    rows = [[[vocabulary.setdefault(w, 1 + len(vocabulary)) for w in t.split()] + [0] for t in row] for row in texts]
    longest = max(len(words) for row in rows for words in row)
    tokens = [[words + [0] * (longest - len(words)) for words in row] for row in rows]
    lengths = torch.tensor([[len(words) for words in row] for row in rows], device=device)
    nothing = torch.zeros((*lengths.shape, longest), device=device)
    return Rollouts(
        tokens=torch.tensor(tokens, device=device),
        completion_mask=torch.arange(longest, device=device) < lengths[..., None],
        logps=nothing,
        entropies=nothing,
        is_truncated=torch.zeros(lengths.shape, dtype=torch.bool, device=device),
        texts=texts,
    )


@torch.no_grad()
def score_texts(
    reward: Reward, batches: Iterable[Batch], right: RightTexts, probes: dict[str, list[str | None]]
) -> AuditScores:
    """Score right texts, probes and candidates, batch by batch.

    Args:
        reward: the judge.
        batches: the scenes of ``right``, in the same order, with their frames.
        right: the right texts.
        probes: N texts each, None where the scene does not qualify.

    Raises:
        ValueError: if a reward is not finite or of another shape, or the scenes are others than before.
    """
    plain = [name for name in probes if name != FLIPPED]
    shared = list(right.found.texts) if right.found else []
    names = ["right text", *(f"probe {name!r}" for name in plain), *(f"candidate {text!r}" for text in shared)]
    scores, flipped, start, device = [], [], 0, _device(reward)
    for batch in batches:
        batch = _to(batch, device)
        rows = range(start, start + len(batch.ids))
        start = rows.stop
        if right.scenes.ids[rows.start : rows.stop] != batch.ids:
            raise ValueError("batches must give the same scenes every time: a list, or a loader that does not shuffle")
        # Every row needs as many texts: where a probe has none, the empty one stands in and is not read.
        texts = [[right.texts[i], *(probes[name][i] or "" for name in plain), *shared] for i in rows]
        scores.append(_score(reward, batch, texts, names))
        flipped.append(_score_flipped(reward, batch, [probes[FLIPPED][i] for i in rows]))
    if start < len(right.texts):
        raise ValueError("batches must give the same scenes every time: they end sooner when read again")
    table = torch.cat(scores)  # float64[N, 1 + probes + C]
    found = {name: _where(probes[name], table[:, 1 + k]) for k, name in enumerate(plain)}
    found[FLIPPED] = torch.cat(flipped)
    return AuditScores(
        right=_where([text if text.strip() else None for text in right.texts], table[:, 0]),
        probes={name: found[name] for name in probes},
        candidates=table[:, 1 + len(plain) :] if shared else None,
    )


def _score_flipped(reward: Reward, batch: Batch, texts: list[str | None]) -> Tensor:
    """Score the mirrored frames of the scenes that have a text: float64[B]."""
    is_flipped = torch.tensor([text is not None for text in texts])
    if not is_flipped.any():
        return torch.full((len(texts),), torch.nan, dtype=torch.float64)
    # The other scenes stay in the batch: a reward may compare a scene with them.
    batch = select_scenes(is_flipped, mirror_batch(batch), batch)
    said = [[text or ""] for text in texts]
    return _where(texts, _score(reward, batch, said, [f"probe {FLIPPED!r}"])[:, 0])


def _score(reward: Reward, batch: Batch, texts: list[list[str]], names: list[str]) -> Tensor:
    """Score K texts per scene: float64[B, K]; messages call the columns by their names."""
    total = reward.score(batch, texts_as_rollouts(texts, batch.reasons.device)).total
    if total.shape != (len(texts), len(names)):
        raise ValueError(f"a reward must give [{len(texts)}, {len(names)}] scores, got {list(total.shape)}")
    if not total.isfinite().all():
        row, column = (~total.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"reward {total[row, column].item()} of the {names[column]} for scene {batch.ids[row]!r}")
    return total.cpu().double()  # in this order: not every device has float64


def _where(texts: list[str | None], scores: Tensor) -> Tensor:
    return torch.where(torch.tensor([text is not None for text in texts]), scores, torch.nan)


def _device(reward: Reward) -> torch.device:
    """Return the device of the reward's weights, or the CPU."""
    parameters = reward.parameters() if isinstance(reward, nn.Module) else iter(())
    first = next(parameters, None)
    return torch.device("cpu") if first is None else first.device


def _to(batch: Batch, device: torch.device) -> Batch:
    """Move all tensors to the device, as a trainer hands them to a reward."""
    frames = [frames.to(device) for frames in batch.frames]
    return batch._replace(frames=frames, actions=batch.actions.to(device), reasons=batch.reasons.to(device))
