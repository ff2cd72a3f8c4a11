"""The texts that a judge is shown."""

import torch

from lvad.evaluation.answer_judge import judge_answers
from lvad.metrics.judged import JudgeScore
from lvad.text import render
from lvad.types import Scores


class Lengths:
    """Scores a text by its length, and remembers what it was shown."""

    def score(self, batch, rollouts):
        self.texts = rollouts.texts
        total = torch.tensor([[float(len(text)) for text in row] for row in rollouts.texts])
        return Scores(total, {})


class Writer:
    def targets(self, texts):
        from types import SimpleNamespace

        return SimpleNamespace(texts=texts)


def test_each_scene_stands_beside_its_truth_and_anothers(make_batch):
    actions = torch.tensor([[0, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0]])
    batch = make_batch(1, 1, 1)._replace(actions=actions, reasons=torch.zeros(3, 21, dtype=torch.long))
    judge, metric = Lengths(), JudgeScore()
    judge_answers(metric, judge, Writer(), batch, ["a", "b", "c"], with_reasons=False)
    stop, both = render([0, 1, 0, 0]), render([1, 0, 1, 0])
    # The second scene's truth is the first one's too, so it is no wrong text for it.
    assert judge.texts == [["a", stop, both], ["b", stop, both], ["c", both, stop]]
    assert metric.compute()["score_right"].item() == (2 * len(stop) + len(both)) / 3


def test_scenes_with_one_truth_have_no_wrong_text(make_batch):
    batch = make_batch(1, 1)._replace(actions=torch.tensor([[0, 1, 0, 0]] * 2), reasons=torch.zeros(2, 21).long())
    metric = JudgeScore()
    judge_answers(metric, Lengths(), Writer(), batch, ["a", "b"], with_reasons=True)
    assert set(metric.compute()) == {"score"}
