"""Scores of a frozen judge for generated texts, compared with those of right and wrong texts."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lvad.metrics.calibration import fit_platt
from lvad.ranks import SceneRows


class JudgedScene(NamedTuple):
    """A judge's scores of the text that was generated for a scene, of its right text and of a wrong text."""

    said: float
    """Score of the generated text."""
    right: float | None
    """Score of a right text; None where the scene has no wrong text."""
    wrong: float | None
    """Score of a wrong text; None where the scene has none."""


class JudgeScore:
    """Metric of the mean score and the share of matches by a frozen judge, over the scenes of all ranks.

    ``compute`` returns float[] each:
        ``score``, ``score_right``, ``score_wrong``: the judge's mean score of the generated, the right and the wrong
        texts, in its own unit;
        ``match``, ``match_right``: the share of generated and right texts with P(match) > 0.5, where P is fitted on the
        right and wrong texts of the same scenes. Missing where there are no wrong texts.

    The paper's "Match%" is not compared with wrong texts, and its CLIP matched "123" too (section 4).
    """

    def __init__(self) -> None:
        self._rows = SceneRows[JudgedScene]()

    def update(self, ids: Sequence[str], scenes: Sequence[JudgedScene]) -> None:
        """Add scenes."""
        self._rows.add(ids, scenes)

    def compute(self) -> dict[str, Tensor]:
        """Compute the scores since the last reset.

        Raises:
            ValueError: if no scene was added.
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
