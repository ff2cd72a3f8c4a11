"""Rewards by rule, against faults that a learned reward may miss: repeated, endless, malformed, contradictory text.

A word is a run of letters and digits, in any case and script; punctuation is no word. A text without words repeats
nothing and only ``Length`` punishes it, so use ``Repetition`` and ``Length`` together.
"""

import re
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from lvad.taxonomy import Taxonomy
from lvad.text import Flaw, parse
from lvad.types import Batch, Rollouts, Scores

_WORD: Final = re.compile(r"\w+")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _of_each_text(rule: Callable[[str], float], rollouts: Rollouts) -> Tensor:
    scores = [[rule(text) for text in row] for row in rollouts.texts]
    return torch.tensor(scores, dtype=torch.float32, device=rollouts.logps.device)  # float[B, K]


class Repetition(nn.Module):
    """Minus the share of a text's word n-grams that repeat an earlier one: 0 for none, towards -1 for a loop.

    For a text of no more than n words, n is one below its length (at least 1), so that there are two n-grams to
    compare: "car car" gets -1/2, a text of one word or none gets 0.

    Args:
        ngram: n, in words; at least 1.

    Raises:
        ValueError: for a smaller ``ngram``.
    """

    def __init__(self, ngram: int = 3) -> None:
        super().__init__()
        if ngram < 1:
            raise ValueError(f"ngram must be >= 1 word, got {ngram}")
        self.ngram = ngram

    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        """Score the completions, float[B, K] in (-1, 0]."""
        total = _of_each_text(self._score_text, rollouts)
        return Scores(total, {"repetition": total})

    def _score_text(self, text: str) -> float:
        words = _words(text)
        if len(words) < 2:
            return 0.0
        n = max(1, min(self.ngram, len(words) - 1))
        ngrams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        return len(set(ngrams)) / len(ngrams) - 1.0


class Length(nn.Module):
    """0 for a text of ``min_words`` to ``max_words``, falling linearly to -1 on either side.

    Args:
        min_words: the fewest words without loss; at least 1, or saying nothing would cost nothing.
        max_words: the most words without loss.
        slack_words: how many words too few or too many cost the whole -1.

    Raises:
        ValueError: for a ``min_words`` below 1 or above ``max_words``, or a ``slack_words`` below 1.
    """

    def __init__(self, min_words: int = 5, max_words: int = 40, slack_words: int = 10) -> None:
        super().__init__()
        if not 1 <= min_words <= max_words:
            raise ValueError(f"min_words must be >= 1 and <= max_words ({max_words}), got {min_words}")
        if slack_words < 1:
            raise ValueError(f"slack_words must be >= 1, got {slack_words}")
        self.min_words, self.max_words, self.slack_words = min_words, max_words, slack_words

    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        """Score the completions, float[B, K] in [-1, 0]."""
        total = _of_each_text(self._score_text, rollouts)
        return Scores(total, {"length": total})

    def _score_text(self, text: str) -> float:
        count = len(_words(text))
        outside = max(self.min_words - count, count - self.max_words, 0)
        return -min(1.0, outside / self.slack_words)


class Format(nn.Module):
    """1 for a flawless answer ("Action: stop. Reason: traffic sign."), 0 for anything else."""

    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        """Score the completions, float[B, K] of zeros and ones."""
        total = _of_each_text(lambda text: float(parse(text, batch.taxonomy).is_valid), rollouts)
        return Scores(total, {"format": total})


class Consistency(nn.Module):
    """Share of an answer's reasons that agree with its actions.

    A reason for an action agrees if the action is named, a reason against it if it is not. Where two actions are named
    that exclude each other, such as BDD-OIA's forward and stop, no reason for either agrees. A reason that the taxonomy
    does not know counts as named, and agrees with nothing.

    An answer that names no action or no reason gets 0. With BDD-OIA, one that names everything gets 6 / 21, and the
    true labels get 0.98 on average. The scene is not looked at, so a consistent lie gets 1: combine it with a reward
    that sees the scene.
    """

    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        """Score the completions, float[B, K] in [0, 1]."""
        total = _of_each_text(lambda text: _agreement(text, batch.taxonomy), rollouts)
        return Scores(total, {"consistency": total})


def _agreement(text: str, taxonomy: Taxonomy) -> float:
    answer = parse(text, taxonomy)
    reasons = [reason for reason, flag in zip(taxonomy.reasons, answer.reasons, strict=True) if flag]
    actions = {action for action, flag in enumerate(answer.actions) if flag}
    if not reasons or not actions:
        return 0.0
    contradicted = {action for pair in taxonomy.exclusive if actions.issuperset(pair) for action in pair}
    num_agreeing = sum(
        (reason.action in actions) == reason.supports and reason.action not in contradicted for reason in reasons
    )
    num_unknown = sum(problem.flaw is Flaw.UNKNOWN_REASON for problem in answer.problems)
    return num_agreeing / (len(reasons) + num_unknown)
