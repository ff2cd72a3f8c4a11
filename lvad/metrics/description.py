"""How good are the descriptions of held-out scenes?"""

from typing import cast

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from lvad.metrics.facts import FactScore
from lvad.types import Rollouts, Scores


class DescriptionScore(torch.nn.Module):
    """Reward, length and variety of one description per scene; its facts where the scene's are known.

    ``compute`` returns, as float[] each: ``reward`` and one mean per reward term; ``length`` in tokens;
    ``truncated``, share; ``distinct``, share of different texts on this rank; ``fact_precision``, ``fact_recall``,
    ``fact_all_right``, ``claims`` per text for drawn scenes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reward, self.length, self.truncated = MeanMetric(), MeanMetric(), MeanMetric()
        self.terms = torch.nn.ModuleDict()
        self.facts = FactScore()
        self.texts: list[str] = []
        self.has_facts = False

    def update(self, rollouts: Rollouts, scores: Scores, facts: list[dict[str, str] | None]) -> None:
        """Add B scenes with K = 1 completion each."""
        texts = [row[0] for row in rollouts.texts]
        self.reward.update(scores.total)
        self.length.update(rollouts.completion_mask.sum(-1).float())
        self.truncated.update(rollouts.is_truncated.float())
        for name, term in scores.terms.items():
            if name not in self.terms:
                self.terms[name] = MeanMetric().to(term.device)
            cast(MeanMetric, self.terms[name]).update(term)
        known = [(text, fact) for text, fact in zip(texts, facts, strict=True) if fact is not None]
        if known:
            self.facts.update([text for text, _ in known], [fact for _, fact in known])
            self.has_facts = True
        self.texts += texts

    def compute(self) -> dict[str, Tensor]:
        """The scores since the last reset."""
        values = {
            "reward": self.reward.compute(),
            "length": self.length.compute(),
            "truncated": self.truncated.compute(),
            "distinct": torch.tensor(len(set(self.texts)) / max(len(self.texts), 1)),
        }
        values |= {f"reward_{name}": cast(MeanMetric, metric).compute() for name, metric in self.terms.items()}
        if self.has_facts:
            values |= {f"fact_{name}": value for name, value in self.facts.compute().items()}
        return values

    def reset(self) -> None:
        """Forget all scenes."""
        for metric in self.modules():
            if isinstance(metric, Metric):
                metric.reset()
        self.texts, self.has_facts = [], False
