"""The results of a ``Predictor``: plain values, without tensors."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from lvad.ops import sequence_sum
from lvad.taxonomy import Taxonomy
from lvad.types import AnsweredScene, Rollouts, Scores


class Decision(NamedTuple):
    """The possible actions in a scene, and the reasons for them."""

    id: str
    """The scene's name."""
    description: str
    """What the decision was read from; empty where the run decides from the frames only."""
    answer: str
    """The answer as the model wrote it."""
    is_valid: bool
    """False where the answer could not be parsed without a flaw."""
    actions: tuple[str, ...]
    """The actions that the answer names."""
    action_probabilities: dict[str, float]
    """Every action of the label set, in its order, with a probability in [0, 1]."""
    reasons: tuple[str, ...]
    """The reasons that the answer names."""
    reason_probabilities: dict[str, float]
    """Every reason with a probability in [0, 1]; empty for a run that answers with actions only."""


class TextScore(NamedTuple):
    """The reward of one text for one scene."""

    total: float
    """The reward, in its own unit."""
    terms: dict[str, float]
    """The parts of the reward by name, before they are weighted."""


class SampledText(NamedTuple):
    """One completion that was drawn."""

    text: str
    log_probability: float
    """Log-probability of the completion in the distribution that it was drawn from, in nats."""
    is_truncated: bool
    """True where ``max_new_tokens`` ended it."""
    score: TextScore | None
    """Its reward; None where the run has none."""


def decision(answered: AnsweredScene, taxonomy: Taxonomy) -> Decision:
    """Make the decision of an answered scene, with the names of its labels."""
    actions, reasons = taxonomy.action_names, taxonomy.reason_texts
    return Decision(
        id=answered.id,
        description=answered.description,
        answer=answered.text,
        is_valid=answered.is_valid,
        actions=_named(actions, answered.actions),
        action_probabilities=_by_name(actions, answered.action_probabilities),
        reasons=_named(reasons, answered.reasons),
        reason_probabilities=_by_name(reasons, answered.reason_probabilities),
    )


def text_scores(scores: Scores) -> list[TextScore]:
    """Make the rewards of the K completions of a single scene from scores float[1, K]."""
    terms = {name: _row(values) for name, values in scores.terms.items()}
    totals = _row(scores.total)
    return [TextScore(total, {name: row[k] for name, row in terms.items()}) for k, total in enumerate(totals)]


def sampled_texts(rollouts: Rollouts, scores: Scores | None) -> list[SampledText]:
    """Make the results of the K completions of a single scene.

    Args:
        rollouts: of one scene.
        scores: float[1, K]; None without a reward.
    """
    texts, logps = rollouts.texts[0], _row(sequence_sum(rollouts.logps, rollouts.completion_mask))
    judged = [None] * len(texts) if scores is None else text_scores(scores)
    rows = zip(texts, logps, rollouts.is_truncated[0].tolist(), judged, strict=True)
    return [SampledText(*row) for row in rows]


def _row(values: Tensor) -> list[float]:
    return values[0].float().tolist()


def _named(names: Sequence[str], flags: Sequence[int]) -> tuple[str, ...]:
    return tuple(name for name, flag in zip(names, flags, strict=True) if flag)


def _by_name(names: Sequence[str], probabilities: Sequence[float]) -> dict[str, float]:
    return dict(zip(names, probabilities, strict=True)) if probabilities else {}
