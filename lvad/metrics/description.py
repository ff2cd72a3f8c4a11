"""Scores of the descriptions of held-out scenes: reward, length, variety and facts."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lvad.metrics.fact_scores import FactCounts, fact_counts, fact_scores
from lvad.ranks import SceneRows
from lvad.types import Rollouts, Scores


class DescribedScene(NamedTuple):
    """The description of a scene, with its reward."""

    text: str
    reward: float
    terms: dict[str, float]
    num_tokens: int
    is_truncated: bool
    facts: FactCounts | None
    """Counts of the text's facts; None where the facts of the scene are not known."""


class DescriptionScore:
    """Metric of one description per scene, over all ranks: reward, length, variety, and facts where they are known.

    ``compute`` returns, as float[] each: ``reward`` and one mean per reward term; ``length`` in tokens;
    ``truncated``, share; ``distinct``, share of different texts; ``fact_precision``, ``fact_recall``,
    ``fact_all_right``, ``fact_claims_per_text`` for synthetic scenes.
    """

    def __init__(self) -> None:
        self._rows = SceneRows[DescribedScene]()

    def update(
        self, ids: Sequence[str], rollouts: Rollouts, scores: Scores, facts: Sequence[dict[str, str] | None]
    ) -> None:
        """Add B scenes with K = 1 completion each."""
        texts = [row[0] for row in rollouts.texts]
        terms = {name: term[:, 0].tolist() for name, term in scores.terms.items()}
        columns = (
            texts,
            scores.total[:, 0].tolist(),
            [{name: values[b] for name, values in terms.items()} for b in range(len(texts))],
            rollouts.completion_mask[:, 0].sum(-1).tolist(),
            rollouts.is_truncated[:, 0].tolist(),
            [None if known is None else fact_counts(text, known) for text, known in zip(texts, facts, strict=True)],
        )
        self._rows.add(ids, (DescribedScene(*row) for row in zip(*columns, strict=True)))

    def compute(self) -> dict[str, Tensor]:
        """Compute the scores since the last reset.

        Raises:
            ValueError: if nothing was described.
        """
        rows = self._rows.gathered()
        if not rows:
            raise ValueError("DescriptionScore has no scenes; call update first")
        values = {
            "reward": _mean([row.reward for row in rows]),
            "length": _mean([row.num_tokens for row in rows]),
            "truncated": _mean([row.is_truncated for row in rows]),
            "distinct": torch.tensor(len({row.text for row in rows}) / len(rows)),
        }
        values |= {f"reward_{name}": _mean([row.terms[name] for row in rows]) for name in rows[0].terms}
        known = [row.facts for row in rows if row.facts is not None]
        if known:
            values |= {f"fact_{name}": value for name, value in fact_scores(known).items()}
        return values

    def reset(self) -> None:
        """Forget the scenes added so far."""
        self._rows.reset()


def _mean(values: Sequence[float | int | bool]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).mean().float()
