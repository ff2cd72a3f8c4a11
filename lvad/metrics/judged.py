"""What a frozen judge thinks of the texts that were said, beside right texts and wrong ones."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lvad.metrics.calibration import fit_platt


class JudgeScore(Metric):
    """Mean score and share of matches, over batches and ranks.

    ``compute`` returns float[] each:
        ``score``, ``score_right``, ``score_wrong``: the judge's mean score of what was said, of the right texts and of
        wrong ones, in its own unit;
        ``match``, ``match_right``: the share of them with P(match) > 0.5, where P is fitted on the right and wrong
        texts of the same scenes. Missing where there are no wrong texts.

    The paper's "Match%" had no wrong text beside it, and its CLIP matched "123" too (section 4).
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    said: list[Tensor]
    right: list[Tensor]
    wrong: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("said", "right", "wrong"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, said: Tensor, right: Tensor, wrong: Tensor) -> None:
        """Add scores.

        Args:
            said: float[N].
            right: float[M].
            wrong: float[M], of the same scenes as ``right``; M may be 0.

        Raises:
            ValueError: if right and wrong differ in number.
        """
        if right.shape != wrong.shape:
            raise ValueError(f"right and wrong must pair, got {list(right.shape)} and {list(wrong.shape)}")
        for rows, values in ((self.said, said), (self.right, right), (self.wrong, wrong)):
            rows.append(values.detach().float())

    def compute(self) -> dict[str, Tensor]:
        """The scores since the last reset.

        Raises:
            ValueError: if nothing was said.
        """
        said, right, wrong = (dim_zero_cat(rows) if len(rows) else None for rows in (self.said, self.right, self.wrong))
        if said is None or not len(said):
            raise ValueError("JudgeScore has no scenes; call update first")
        found = {"score": said.mean()}
        if right is not None and wrong is not None and len(right):
            pairs = torch.cat([right, wrong]), torch.arange(2 * len(right), device=right.device) < len(right)
            slope, offset = fit_platt(*pairs)
            found |= {"score_right": right.mean(), "score_wrong": wrong.mean()}
            found |= {
                name: (slope * scores + offset > 0).float().mean()
                for name, scores in (("match", said), ("match_right", right))
            }
        return found
