"""Judges of which one knows what they like, and drawn scenes without pictures."""

import random

import torch
from torch import nn

from lvad.data.synthetic.captions import scene_captions
from lvad.data.synthetic.labels import bdd_oia_labels
from lvad.data.synthetic.state import draw_state, scene_facts
from lvad.facts import claims, is_true
from lvad.taxonomy import BDD_OIA
from lvad.types import Batch, Scores


class TextJudge(nn.Module):
    """Scores a text by a function of the batch, the scene's place in it, and the text."""

    def __init__(self, of):
        super().__init__()
        self.of = of

    def score(self, batch, rollouts):
        rows = [[float(self.of(batch, i, text)) for text in row] for i, row in enumerate(rollouts.texts)]
        return Scores(torch.tensor(rows, dtype=torch.float64), {})


def true_reasons(batch, i):
    return [text for text, flag in zip(BDD_OIA.reason_texts, batch.reasons[i].tolist(), strict=True) if flag]


def knows_labels(batch, i, text):
    """1 for each true reason and -1 for each false one; -1 for anything that is no list of different reasons."""
    said = text.split(", ")
    if not set(said) <= set(BDD_OIA.reason_texts) or len(set(said)) < len(said):
        return -1
    return sum(1 if one in true_reasons(batch, i) else -1 for one in said)


def knows_facts(batch, i, text):
    """1 for each true claim and -2 for each false one."""
    return sum(1 if is_true(claim, batch.facts[i]) else -2 for claim in claims(text))


def draw_batches(num, batch_size=10, seed=0):
    """Labelled scenes; a frame tells its mirror image by the side of its white column."""
    rng = random.Random(seed)
    states = [draw_state(rng) for _ in range(num)]
    frames = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    frames[..., 0] = 255
    batches = []
    for start in range(0, num, batch_size):
        some = states[start : start + batch_size]
        actions, reasons = zip(*(bdd_oia_labels(state) for state in some), strict=True)
        batches.append(
            Batch(
                ids=[f"scene-{start + i}" for i in range(len(some))],
                frames=[frames.clone() for _ in some],
                actions=torch.tensor(actions),
                reasons=torch.tensor(reasons),
                captions=[scene_captions(state, rng) for state in some],
                facts=[scene_facts(state) for state in some],
                recordings=[f"scene-{start + i}" for i in range(len(some))],
            )
        )
    return batches


def hidden(batches):
    """The scenes without labels, captions and facts."""
    return [
        batch._replace(
            actions=torch.full_like(batch.actions, -1),
            reasons=torch.full_like(batch.reasons, -1),
            captions=[()] * len(batch.ids),
            facts=[None] * len(batch.ids),
        )
        for batch in batches
    ]
