"""Scores of a policy's greedy texts on validation and test scenes."""

import torch
from torch import Tensor

from lvad.answers.answer_records import answered_scenes, gather_answers, parse_answers
from lvad.metrics.description import DescriptionScore
from lvad.metrics.driving import answers_of, driving_scores
from lvad.metrics.fact_scores import fact_counts
from lvad.ranks import SceneRows, score_together
from lvad.taxonomy import BDD_OIA
from lvad.types import AnsweredScene, Batch, Reward, Rollouts, SceneScores, Scores


class GreedyScores:
    """Collects the scores of one greedy text per scene, over the scenes of all ranks.

    Args:
        judge: a reward that is never trained on; None for none.
        answers: the texts are answers with actions and reasons, which are scored against the labels too.
    """

    def __init__(self, judge: Reward | None, answers: bool) -> None:
        self.judge, self.answers = judge, answers
        self.description, self._judged = DescriptionScore(), SceneRows[float]()
        self.answered: list[AnsweredScene] = []
        self.taxonomy = BDD_OIA  # of the scenes that were added
        self.scored: list[SceneScores] = []

    @torch.no_grad()
    def update(self, batch: Batch, rollouts: Rollouts, scores: Scores) -> None:
        """Add B scenes with K = 1 completion each.

        Raises:
            ValueError: naming a scene without labels where answers are to be scored.
        """
        self.description.update(batch.ids, rollouts, scores, batch.facts)
        each = {"reward": scores.total, **{f"reward_{name}": term for name, term in scores.terms.items()}}
        if self.judge is not None:
            each["judge"] = score_together(self.judge, batch, rollouts).total
            self._judged.add(batch.ids, each["judge"][:, 0].tolist())
        self.scored += _scene_scores(batch, rollouts, each)
        if self.answers:
            texts = [row[0] for row in rollouts.texts]
            self.taxonomy = batch.taxonomy
            read = parse_answers(texts, with_reasons=True, taxonomy=self.taxonomy)
            found = answered_scenes(batch, texts, read, [""] * len(texts), None)
            answers_of(found, with_reasons=True, taxonomy=self.taxonomy)  # raises at once for a scene without labels
            self.answered += found

    def compute(self) -> dict[str, Tensor]:
        """Compute the scores since the last reset; ``answered`` holds the answers of all ranks afterwards."""
        values = self.description.compute()
        if self.judge is not None:
            values["judge"] = torch.tensor(self._judged.gathered(), dtype=torch.float64).mean().float()
        if self.answers:
            self.answered[:] = gather_answers(self.answered)
            values |= driving_scores(answers_of(self.answered, True, self.taxonomy))
        return values

    def reset(self) -> None:
        """Drop all scores."""
        self.description.reset()
        self._judged.reset()
        self.answered.clear()
        self.scored.clear()


def _scene_scores(batch: Batch, rollouts: Rollouts, each: dict[str, Tensor]) -> list[SceneScores]:
    """Put the scores of each scene's one text on record."""
    found = []
    for row, (name, facts) in enumerate(zip(batch.ids, batch.facts, strict=True)):
        values = {score: (float(value[row, 0]), 1.0) for score, value in each.items()}
        if facts is not None:
            count = fact_counts(rollouts.texts[row][0], facts)
            values["fact_precision"] = (float(count.num_true), float(count.num_claims))
            values["fact_recall"] = (float(count.num_driving_found), float(count.num_driving_present))
            values["fact_all_right"] = (float(0 < count.num_claims == count.num_true), 1.0)
        found.append(SceneScores(name, values))
    return found
