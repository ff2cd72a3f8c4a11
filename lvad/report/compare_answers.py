"""Comparison of runs by their answers: scores with intervals, constant answers beside them, paired differences.

Runs are paired by scene id. A score means little alone, so the floors of ``lvad.metrics.floors`` on the same scenes
stand in the same tables, and so does the number of labels that each run was given.

Departure: the runs do not hold their training labels, so that the floor ``majority`` is left out, and the floor
``always stop`` names no reason.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import torch

from lvad.data.ledger import Ledger, labelled_ids, read_ledger
from lvad.errors import DataError
from lvad.metrics.driving import Answers, answers_of, bootstrap_differences, bootstrap_scores
from lvad.metrics.floors import Labels, floor_answers
from lvad.metrics.intervals import Interval
from lvad.report.answers_file import ANSWERS, label_matrices, read_answers
from lvad.report.label_tables import LabelScore, score_labels
from lvad.report.runs import REASONS_SCORED, read_metrics
from lvad.taxonomy import Taxonomy
from lvad.taxonomy.compatibility import folder_taxonomy
from lvad.types import AnsweredScene

FLOORS: Final = ("all positive", "all negative")
"""The constant answers beside that of the label set, "always stop"."""

_SHOWN_IDS: Final = 3

Scores = Mapping[str, Interval]
"""Score ("action_macro_f1") to its value, as a share."""


class TestedRun(NamedTuple):
    """A tested run: its answers, its budget ledger and its label set."""

    name: str
    folder: Path
    answered: list[AnsweredScene]
    with_reasons: bool
    """False for a run that answers with actions only."""
    ledger: Ledger
    taxonomy: Taxonomy


class LabelCounts(NamedTuple):
    """How many different labelled scenes a run used, with those of earlier stages and of their rewards."""

    labels: int | None
    """Labelled scenes, each counted once whatever it was used for; None where there is no ledger."""
    train: int
    val: int
    """Scenes whose labels chose a checkpoint, stopped the fit, or calibrated."""


class Comparison(NamedTuple):
    """Scores of runs and of constant answers (floors) on the same scenes, and paired differences."""

    num_scenes: int
    folders: dict[str, Path]
    """The folder of each run; the differences are the first run's minus each other's."""
    budgets: dict[str, LabelCounts]
    """How many labels each run used."""
    arms: dict[str, Scores]
    floors: dict[str, Scores]
    differences: dict[str, Scores]
    """The first run minus this run or floor, paired by scene."""
    labels: dict[str, list[LabelScore]]
    """The scores of each label by run: actions, and reasons where the run names them."""
    taxonomy: Taxonomy
    """The label set that all runs share."""

    @property
    def first(self) -> str:
        """The run that the others are subtracted from."""
        return next(iter(self.arms))


def excludes_zero(difference: Interval) -> bool:
    """Whether the interval of a difference lies on one side of zero."""
    return difference.low > 0 or difference.high < 0


def run_names(folders: Sequence[Path]) -> list[str]:
    """Name each folder by as many of its last parts as tell all of them apart; "version_0" never stands alone.

    Raises:
        DataError: if a folder is given twice.
    """
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        twice = next(folder for folder, own in zip(folders, parts, strict=True) if parts.count(own) > 1)
        raise DataError(f"run {twice} is given twice; a run cannot be compared with itself")
    is_numbered = any(own[-1].startswith("version_") for own in parts)
    for depth in range(2 if is_numbered else 1, max(map(len, parts)) + 1):
        names = ["/".join(own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different paths have different parts")


def read_run(folder: Path, name: str) -> TestedRun:
    """Read the answers, the ledger and the label set of a tested run.

    Args:
        folder: of the run.
        name: what it is called in the comparison.

    Raises:
        DataError: naming the remedy, if there is no such folder, it holds no answers, or they cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"no run folder at {folder}; give folders such as logs/action_sft/version_0")
    remedy = f"lvad test --config {folder}/config.yaml --ckpt_path {folder}/checkpoints/best.ckpt"
    if not (folder / ANSWERS).is_file():
        raise DataError(f"{folder} has no {ANSWERS} and no scored.jsonl, which a test writes; test it with: {remedy}")
    taxonomy = folder_taxonomy(folder)
    try:
        answered = read_answers(folder / ANSWERS, taxonomy)
    except ValueError as error:
        raise DataError(f"{error}; write the file anew with: {remedy}") from error
    if not answered:
        raise DataError.at(folder / ANSWERS, "", "holds no scene", f"write the file anew with: {remedy}")
    if missing := [scene.id for scene in answered if scene.true_actions is None]:
        problem = f"{len(missing)} of {len(answered)} scenes have no labels, such as {missing[:_SHOWN_IDS]}"
        raise DataError.at(folder / ANSWERS, "", problem, "test the run on scenes that all have labels")
    known = read_metrics(folder)
    # What a test scored decides: a model that writes freely may name reasons that nobody asked it for.
    was_scored = any(key.startswith("test/") for key in known)
    with_reasons = REASONS_SCORED in known if was_scored else any(any(scene.reasons) for scene in answered)
    return TestedRun(name, folder, answered, with_reasons, read_ledger(folder), taxonomy)


def compare_answers(runs: Sequence[TestedRun]) -> Comparison:
    """Score runs and constant answers on the scenes that all runs answered.

    Args:
        runs: at least one; names are all different.

    Raises:
        DataError: if two runs answered other scenes, or have other truths or label sets, or a name is taken.
    """
    taxonomy = runs[0].taxonomy
    _check_names([run.name for run in runs], (taxonomy.floor, *FLOORS))
    for run in runs[1:]:
        if differences := taxonomy.differences(run.taxonomy):
            both = f"{runs[0].name!r} and {run.name!r} have different label sets: {'; '.join(differences)}"
            raise DataError(f"{both}; compare runs of one label set")
    answers = {run.name: _answers(run, _paired(runs[0], run)) for run in runs}
    first, *others = answers
    for name in others:
        _check_truths(first, name, answers)
    floors = _floors(list(answers.values()))
    subtracted = {**{name: answers[name] for name in others}, **floors}
    return Comparison(
        num_scenes=len(runs[0].answered),
        folders={run.name: run.folder for run in runs},
        budgets={run.name: label_budget(run.ledger) for run in runs},
        arms={name: bootstrap_scores(said) for name, said in answers.items()},
        floors={name: bootstrap_scores(said) for name, said in floors.items()},
        differences={name: bootstrap_differences(answers[first], said) for name, said in subtracted.items()},
        labels={run.name: _label_scores(run) for run in runs},
        taxonomy=taxonomy,
    )


def _label_scores(run: TestedRun) -> list[LabelScore]:
    names = run.taxonomy
    matrices = label_matrices(run.answered, len(names.labels))
    scores = score_labels(matrices.true, matrices.predicted, names.labels) if len(matrices.true) else []
    return scores if run.with_reasons else scores[: names.num_actions]


def label_budget(ledger: Ledger) -> LabelCounts:
    """Count the labelled scenes of all stages in a ledger, each once."""
    labels = len(labelled_ids(ledger)) if ledger else None
    return LabelCounts(labels, len(labelled_ids(ledger, "train")), len(labelled_ids(ledger, "val")))


def _check_names(names: Sequence[str], floors: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"two runs are named {name!r}; tell them apart with --names")
        if name in floors or not name.strip():
            raise DataError(f"a run cannot be named {name!r}; choose names other than the floors' {list(floors)}")


def _paired(first: TestedRun, other: TestedRun) -> list[AnsweredScene]:
    """Return the other run's scenes in the order of the first one's."""
    by_id = {scene.id: scene for scene in other.answered}
    ids = [scene.id for scene in first.answered]
    known = set(ids)
    lacks = [name for name in ids if name not in by_id]
    more = [name for name in by_id if name not in known]
    if lacks or more:
        missing = [
            f"{run.name!r} lacks {len(names)} scenes of {source.name!r}, such as {names[:_SHOWN_IDS]}"
            for run, source, names in ((other, first, lacks), (first, other, more))
            if names
        ]
        remedy = "test both on the same scenes (the same data.source.root, data.split.num_scenes and data.seed)"
        raise DataError(f"runs are compared on the same scenes, but {', and '.join(missing)}; {remedy}")
    return [by_id[name] for name in ids]


def _answers(run: TestedRun, scenes: Sequence[AnsweredScene]) -> Answers:
    try:
        return answers_of(scenes, run.with_reasons, run.taxonomy)
    except ValueError as error:
        raise DataError(f"{run.folder / ANSWERS}: {error}; test the run anew on scenes that all have labels") from error


def _check_truths(first: str, other: str, answers: Mapping[str, Answers]) -> None:
    one, two = answers[first], answers[other]
    pairs = ((one.true_actions, two.true_actions), (one.true_reasons, two.true_reasons))
    for kind, (truth, second) in zip(("actions", "reasons"), pairs, strict=True):
        if truth is not None and second is not None and not torch.equal(truth, second):
            count = int((truth != second).any(1).sum())
            problem = f"the true {kind} of {count} scenes differ between {first!r} and {other!r}"
            raise DataError(f"{problem}; test both on the same label files")


def _floors(answers: Sequence[Answers]) -> dict[str, Answers]:
    """Make the constant answers to the scenes, with reasons where a run names them."""
    true = next((said for said in answers if said.true_reasons is not None), answers[0])
    names = true.taxonomy
    # What no floor below depends on: the stand-in for training labels, which the runs do not hold.
    no_actions, no_reasons = (torch.zeros(1, n, dtype=torch.int64) for n in (names.num_actions, names.num_reasons))
    unknown = Labels(no_actions, no_reasons, names)
    found = floor_answers(Labels(true.true_actions, true.true_reasons, names), unknown)
    constant, *others = (found[name.replace(" ", "_")] for name in (names.floor, *FLOORS))
    constant = constant._replace(reasons=None, true_reasons=None, reason_probabilities=None)
    return {names.floor: constant, **dict(zip(FLOORS, others, strict=True))}
