"""Results of a study: its cells, the mean of each arm and budget, differences between arms, and labels saved."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import torch

from lvad.data.recordings import recording_of
from lvad.metrics.driving import answers_of, driving_scores
from lvad.metrics.floors import Labels, floor_answers
from lvad.metrics.intervals import Interval
from lvad.metrics.paired import SeedAnswers, paired_difference
from lvad.metrics.seeds import LabelsNeeded, labels_needed, mean_interval
from lvad.taxonomy import BDD_OIA, Taxonomy
from lvad.types import AnsweredScene

ACTIONS: Final = "action_macro_f1"
REASONS: Final = "reason_macro_f1"
SHOWN: Final = {ACTIONS: "action macro-F1", REASONS: "reason macro-F1"}
ALL_POSITIVE: Final = "all_positive"
TEST: Final = "test"

Source = str
"""The name of a set of test scenes: ``test``, or that of the extra test."""


class CellResult(NamedTuple):
    """The result of one tested run of an arm."""

    arm: str
    budget: int
    seed: int
    folder: Path
    labels: int
    """Labelled scenes that any of its stages used, by its ledger."""
    seconds: float
    """Wall seconds of all its stages, shared ones included."""
    device: str | None
    commit: str | None
    command: str
    """The command that runs this cell alone."""
    commands: list[str]
    """The commands of its stages, in order."""
    answered: dict[Source, list[AnsweredScene]]
    scores: dict[Source, dict[str, float]]
    """All scores by set of test scenes, as shares of 1."""
    taxonomy: Taxonomy = BDD_OIA
    """What the labels of the answers are called."""


class Mean(NamedTuple):
    """The mean scores of an arm at a budget, with their intervals."""

    arm: str
    budget: int
    labels: list[int]
    """How many labels its cells used, each count once."""
    seeds: list[int]
    scores: dict[str, Interval]
    """The mean of each score over seeds, with its interval."""


class Difference(NamedTuple):
    """The scores of an arm minus those of another at a budget, over the seeds that both have."""

    arm: str
    minus: str
    budget: int
    seeds: list[int]
    has_equal_labels: bool
    over_seeds: dict[str, Interval]
    """Differences with Student's t intervals, paired by seed."""
    over_scenes: dict[str, Interval]
    """Differences with bootstrap intervals over seeds and recordings, paired by both."""


class Saving(NamedTuple):
    """How many labels the best reference arm needs to reach the score of an arm."""

    arm: str
    budget: int
    score: str
    needed: LabelsNeeded


class Findings(NamedTuple):
    """The results of a study on one set of test scenes."""

    source: Source
    num_scenes: int
    means: list[Mean]
    differences: list[Difference]
    savings: list[Saving]
    floors: dict[str, dict[str, float]]
    """The scores of each constant answer."""
    references: list[str]


def score(answered: Sequence[AnsweredScene], taxonomy: Taxonomy = BDD_OIA) -> dict[str, float]:
    """Compute all scores of the answers, as shares of 1."""
    answers = answers_of(answered, True, taxonomy)
    return {name: float(value) for name, value in driving_scores(answers).items()}


def summarise_cells(cells: Sequence[CellResult], references: Sequence[str], source: Source = TEST) -> Findings:
    """Compute the means, differences and label savings of a study from its cells.

    Args:
        cells: at least one, each with answers of the source.
        references: names of arms that the others are compared with.
        source: which answers.
    """
    groups: dict[tuple[str, int], list[CellResult]] = {}
    for cell in cells:
        groups.setdefault((cell.arm, cell.budget), []).append(cell)
    means = [_mean(group, source) for group in groups.values()]
    differences = [
        difference
        for (arm, budget), group in groups.items()
        for other in references
        if other != arm and (other, budget) in groups
        for difference in _difference(group, groups[other, budget], source)
    ]
    first = cells[0].answered[source]
    savings = list(savings_of(means, references))
    return Findings(
        source, len(first), means, differences, savings, _floors(first, cells[0].taxonomy), list(references)
    )


def _mean(group: Sequence[CellResult], source: Source) -> Mean:
    each = [cell.scores[source] for cell in group]
    scores = {name: mean_interval([scores[name] for scores in each]) for name in SHOWN}
    first = group[0]
    return Mean(first.arm, first.budget, sorted({c.labels for c in group}), [cell.seed for cell in group], scores)


def _difference(group: Sequence[CellResult], other: Sequence[CellResult], source: Source) -> Iterator[Difference]:
    pairs = [(one, two) for one in group for two in other if one.seed == two.seed]
    if not pairs:
        return
    each = [(one.scores[source], two.scores[source]) for one, two in pairs]
    over_seeds = {name: mean_interval([one[name] - two[name] for one, two in each]) for name in SHOWN}
    over_scenes = {
        name: paired_difference(
            [seed_answers(one.answered[source], name) for one, _ in pairs],
            [seed_answers(two.answered[source], name) for _, two in pairs],
        )
        for name in SHOWN
    }
    has_equal_labels = all(one.labels == two.labels for one, two in pairs)
    seeds = [one.seed for one, _ in pairs]
    yield Difference(group[0].arm, other[0].arm, group[0].budget, seeds, has_equal_labels, over_seeds, over_scenes)


def seed_answers(answered: Sequence[AnsweredScene], score: str) -> SeedAnswers:
    """Return the answers that a score is computed from, in the order of the scenes' names."""
    scenes = sorted(answered, key=lambda scene: scene.id)
    if score == ACTIONS:
        rows = [(scene.actions, scene.true_actions) for scene in scenes]
    else:
        rows = [(scene.reasons, scene.true_reasons) for scene in scenes]
    predicted, true = (torch.tensor(part, dtype=torch.bool) for part in zip(*rows, strict=True))
    return SeedAnswers(predicted, true, [recording_of(scene) for scene in scenes])


def savings_of(means: Sequence[Mean], references: Sequence[str]) -> Iterator[Saving]:
    """Compute how many labels the best reference arm of each budget needs to reach the score of every other arm."""
    for name in SHOWN:
        curve: dict[int, float] = {}
        for mean in means:
            if mean.arm in references:
                curve[mean.budget] = max(mean.scores[name].mean, curve.get(mean.budget, 0.0))
        budgets = sorted(budget for budget in curve if budget > 0)
        if len(budgets) < 2:
            continue  # a single point is no curve
        for mean in means:
            if mean.arm not in references:
                needed = labels_needed(budgets, [curve[budget] for budget in budgets], mean.scores[name].mean)
                yield Saving(mean.arm, mean.budget, name, needed)


def _floors(answered: Sequence[AnsweredScene], taxonomy: Taxonomy) -> dict[str, dict[str, float]]:
    answers, always = answers_of(answered, True, taxonomy), taxonomy.floor.replace(" ", "_")
    true = Labels(answers.true_actions, answers.true_reasons, taxonomy)
    constant, names = floor_answers(true, true), (always, ALL_POSITIVE)
    every: Mapping[str, Mapping[str, torch.Tensor]] = {name: driving_scores(constant[name]) for name in names}
    floors = {name: {score: float(own[score]) for score in SHOWN} for name, own in every.items()}
    del floors[always][REASONS]  # of the test scenes' own most frequent reason, which nobody knows
    return floors
