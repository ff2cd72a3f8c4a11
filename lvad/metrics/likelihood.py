"""The negative log-likelihood of right texts of held-out scenes."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvad.ops import sequence_sum
from lvad.ranks import SceneRows


class TextLoss:
    """Metric of the negative log-likelihood per token of right texts, over the scenes of all ranks."""

    def __init__(self) -> None:
        self._rows = SceneRows[tuple[float, int]]()

    def update(self, ids: Sequence[str], logps: Float[Tensor, "B K T"], completion_mask: Bool[Tensor, "B K T"]) -> None:
        """Add B scenes with K right texts each."""
        losses = -sequence_sum(logps, completion_mask).cpu().double().sum(1)  # not every device has float64
        self._rows.add(ids, zip(losses.tolist(), completion_mask.sum((1, 2)).tolist(), strict=True))

    def compute(self) -> Tensor:
        """Compute the loss since the last reset, float[] in nats per token; NaN without scenes."""
        losses, num_tokens = torch.tensor(self._rows.gathered(), dtype=torch.float64).reshape(-1, 2).sum(0)
        return (losses / num_tokens).float()

    def reset(self) -> None:
        """Forget the scenes added so far."""
        self._rows.reset()
