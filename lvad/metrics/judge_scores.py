"""What a frozen judge thinks of the texts that were said, beside right texts and wrong ones."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lvad.metrics.calibration import fit_platt
from lvad.ranks import SceneRows


class JudgedScene(NamedTuple):
    """A judge's scores of the text that was said of a scene, of its right text and of a wrong one."""

    said: float
    right: float | None
    """Of a right text; None where there is no wrong one beside it."""
    wrong: float | None
    """Of a wrong text."""


class JudgeScore:
    """Mean score and share of matches by a frozen judge, over the scenes of all ranks.

    ``compute`` returns float[] each:
        ``score``, ``score_right``, ``score_wrong``: the judge's mean score of what was said, of the right texts and of
        wrong ones, in its own unit;
        ``match``, ``match_right``: the share of them with P(match) > 0.5, where P is fitted on the right and wrong
        texts of the same scenes. Missing where there are no wrong texts.

    The paper's "Match%" had no wrong text beside it, and its CLIP matched "123" too (section 4).
    """

    def __init__(self) -> None:
        self._rows = SceneRows[JudgedScene]()

    def update(self, ids: Sequence[str], scenes: Sequence[JudgedScene]) -> None:
        """Add scenes."""
        self._rows.add(ids, scenes)

    def compute(self) -> dict[str, Tensor]:
        """The scores since the last reset.

        Raises:
            ValueError: if nothing was said.
        """
        rows = self._rows.gathered()
        if not rows:
            raise ValueError("JudgeScore has no scenes; call update first")
        said = torch.tensor([row.said for row in rows])
        found = {"score": said.mean()}
        pairs = torch.tensor([row[1:] for row in rows if row.right is not None])  # float[N, 2]
        if len(pairs):
            right, wrong = pairs.unbind(1)
            is_right = torch.arange(2 * len(right)) < len(right)
            slope, offset = fit_platt(torch.cat([right, wrong]), is_right)
            found |= {"score_right": right.mean(), "score_wrong": wrong.mean()}
            found |= {
                name: (slope * scores + offset > 0).float().mean()
                for name, scores in (("match", said), ("match_right", right))
            }
        return found

    def reset(self) -> None:
        """Forget the scenes added so far."""
        self._rows.reset()
