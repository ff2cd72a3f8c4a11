"""Scores answers by a frozen judge: the paper's CLIP score and match percentage, beside right and wrong texts."""

import torch

from lvad.metrics.judge_scores import JudgedScene, JudgeScore
from lvad.policy.hf import HFPolicy
from lvad.text import render
from lvad.types import Batch, Reward


@torch.no_grad()
def judge_answers(
    metric: JudgeScore, judge: Reward, policy: HFPolicy, batch: Batch, texts: list[str], with_reasons: bool
) -> None:
    """Score the answers of B labelled scenes, with a right and a wrong text of each.

    The wrong text of a scene is the right one of the nearest later scene of the batch that has another.

    Args:
        metric: collects the scores.
        judge: the reward.
        policy: encodes texts as completions.
        batch: the scenes.
        texts: B answers.
        with_reasons: whether right answers name reasons.
    """
    labels = zip(batch.actions.tolist(), batch.reasons.tolist(), strict=True)
    right = [render(actions, reasons if with_reasons else None, batch.taxonomy) for actions, reasons in labels]
    wrong = [_other(right, i) for i in range(len(right))]
    rows = [[said, own, other or own] for said, own, other in zip(texts, right, wrong, strict=True)]
    scores = judge.score(batch, policy.targets(rows)).total.tolist()
    judged = [
        JudgedScene(*row) if other is not None else JudgedScene(row[0], None, None)
        for row, other in zip(scores, wrong, strict=True)
    ]
    metric.update(batch.ids, judged)


def _other(texts: list[str], i: int) -> str | None:
    return next((text for text in texts[i + 1 :] + texts[:i] if text != texts[i]), None)
