"""The content of the page for one scene: a view for each run, as plain values for the template."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from lvad.api import Decision, Predictor, SampledText, TextScore
from lvad.api.scenes import Frames
from lvad.report.answer_picture import arrows
from lvad.taxonomy import Taxonomy

_MAX_REASONS: Final = 5
"""How many reasons are shown that the answer does not name, the most probable first."""
_LEAST_PROBABILITY: Final = 0.01


class PageInputs(NamedTuple):
    """The fields of the form beside the frames."""

    num_completions: int = 4
    """K, how many samples to draw; 0 for none."""
    temperature: float | None = None
    """Temperature of the samples; None keeps that of the run."""
    text: str = ""
    """A text to score; empty for none."""


class Arrow(NamedTuple):
    """One action as the page draws it."""

    name: str
    points: str
    """Corners of a polygon in a square of side 1, as SVG has them."""
    is_said: bool
    probability: float | None


class NamedReason(NamedTuple):
    """One reason with its probability."""

    text: str
    is_said: bool
    probability: float | None


class View(NamedTuple):
    """The results of one run for a scene; empty entries for what it cannot do."""

    name: str
    kind: str
    description: str = ""
    reward: TextScore | None = None
    """The reward of the description."""
    decision: Decision | None = None
    arrows: tuple[Arrow, ...] = ()
    reasons: tuple[NamedReason, ...] = ()
    text: str = ""
    """The text that the visitor typed."""
    text_reward: TextScore | None = None
    samples: tuple[SampledText, ...] = ()
    """The samples, the best rewarded first."""
    cannot: tuple[str, ...] = ()
    """The abilities that the run lacks, in words."""


_IN_WORDS: Final = {"describe": "describe", "decide": "decide on actions", "score": "score texts"}


def build_view(predictor: Predictor, frames: Frames, asked: PageInputs) -> View:
    """Call every method that a run has about one scene.

    Args:
        predictor: the run.
        frames: the scene.
        asked: what else.

    Raises:
        DataError: if the frames cannot be used.
    """
    can = predictor.abilities
    decided = predictor.decide(frames) if "decide" in can else None
    described = predictor.describe(frames) if "describe" in can else ""
    if decided is not None:
        described = decided.description or described
    scores = "score" in can
    samples: list[SampledText] = []
    if "sample" in can and asked.num_completions:
        samples = predictor.sample(frames, asked.num_completions, asked.temperature)
    return View(
        name=predictor.name,
        kind=predictor.kind,
        description=described,
        reward=predictor.score(frames, described)[0] if scores and described else None,
        decision=decided,
        arrows=() if decided is None else arrows_of(decided, predictor.taxonomy),
        reasons=() if decided is None else reasons_of(decided),
        text=asked.text,
        text_reward=predictor.score(frames, asked.text)[0] if scores and asked.text else None,
        samples=tuple(sorted(samples, key=_worth, reverse=True)),
        cannot=tuple(words for name, words in _IN_WORDS.items() if name not in can),
    )


def arrows_of(decided: Decision, taxonomy: Taxonomy) -> tuple[Arrow, ...]:
    """Make one arrow for each action of the label set."""
    return tuple(
        Arrow(name, _points(polygon), name in decided.actions, decided.action_probabilities.get(name))
        for name, polygon in zip(taxonomy.action_names, arrows(taxonomy), strict=True)
    )


def reasons_of(decided: Decision) -> tuple[NamedReason, ...]:
    """List the reasons that the answer names, then the most probable of the others."""
    probabilities = decided.reason_probabilities
    said = [NamedReason(text, True, probabilities.get(text)) for text in decided.reasons]
    others = sorted(((p, text) for text, p in probabilities.items() if text not in decided.reasons), reverse=True)
    likely = [NamedReason(text, False, p) for p, text in others if p >= _LEAST_PROBABILITY]
    return (*said, *likely[:_MAX_REASONS])


def _points(polygon: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.3g},{y:.3g}" for x, y in polygon)


def _worth(sample: SampledText) -> float:
    return sample.log_probability if sample.score is None else sample.score.total
