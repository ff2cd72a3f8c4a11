"""A study's configuration, and the plan of its stages: budgets x seeds x arms, each shared stage once.

A stage's folder is named after its command: ``n<budget>/seed-<seed>/<stage>-<digest>``, or ``shared/seed-<seed>/...``
where neither it nor what it is built on depends on the budget. So arms that ask for the same share it, and another arm
or a changed override leaves every other folder as it was.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from lvad.assets import resolve_config
from lvad.commands.pipeline_config import (
    Pipeline,
    Record,
    Stage,
    check_types,
    config_sha256,
    fit_args,
    read_mapping,
    read_stages,
    references,
    substitute_references,
)
from lvad.commands.renamed_keys import check_keys
from lvad.commands.yaml_files import read_yaml
from lvad.errors import DataError
from lvad.report.runs import MODEL

BUDGET: Final = "budget"
SEED: Final = "seed"
SHARED: Final = "shared"
_REMEDY: Final = "see configs/study/label_efficiency.yaml"
_LISTS: Final = {"budgets": int, "seeds": int, "references": str}


@dataclass(frozen=True)
class Arm:
    """One arm of a study: a method as a sequence of stages, and the stage whose test is its result.

    Args:
        stages: in order; ``{budget}`` and ``{seed}`` in a value are the cell's, ``{name}`` is the model of an earlier
            stage.
        result: the stage whose test counts; the last one if empty.
    """

    stages: list[Stage]
    result: str = ""


@dataclass(frozen=True)
class Study:
    """The configuration of a study: every arm at every label budget and seed.

    Args:
        budgets: numbers of labels, over all stages of an arm.
        seeds: each is ``seed_everything`` and ``data.seed`` of every stage.
        arms: by name; in the file each is an arm's file, or ``{file: FILE, budgets: [...]}``.
        references: arms without reinforcement learning; the label saving is against the best of them, and differences
            are taken from each.
        name: of the folder under ``root``.
        root: of all studies.
        parallel: stages that run at a time.
        threads: of each.
        extra_test: overrides of ``lvad test``, by which every result is tested a second time; none if empty.
        estimates: seconds of fit and test by a stage's name or its configuration, for a plan of the costs before any
            stage of the kind has finished.
        arm_budgets: of the arms that are not run at all of ``budgets``; in the file they stand at the arm.
    """

    budgets: list[int]
    seeds: list[int]
    arms: dict[str, Arm]
    references: list[str] = field(default_factory=list)
    name: str = "study"
    root: str = "logs/study"
    parallel: int = 1
    threads: int = 1
    extra_test: dict[str, Any] = field(default_factory=dict)
    estimates: dict[str, float] = field(default_factory=dict)
    arm_budgets: dict[str, list[int]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder of this study."""
        return Path(self.root) / self.name


class Job(NamedTuple):
    """One stage at one budget and seed, shared by all arms that need it."""

    folder: Path
    name: str
    """Name of the stage, as its arm calls it."""
    config: str
    command: tuple[str, ...]
    """The arguments of the fit, as typed after ``lvad``."""
    inputs: tuple[Path, ...]
    """Folders of the stages that it is built on."""
    test: bool
    is_result: bool
    """True for the result of an arm, which is tested on the extra scenes too."""

    def record(self, records: Mapping[Path, Record]) -> Record:
        """Make the record of a fit that begins now, with all inputs finished."""
        inputs = {str(folder): records[folder].finished or "" for folder in self.inputs}
        return Record(list(self.command), config_sha256(self.config), inputs)


class Cell(NamedTuple):
    """One arm at one budget and seed."""

    arm: str
    budget: int
    seed: int
    folder: Path
    """Folder of the stage that is its result."""
    chain: tuple[Path, ...]
    """Folders of all its stages, in order."""


class Plan(NamedTuple):
    """All stages and cells that a study runs."""

    jobs: dict[Path, Job]
    """The stages by folder, each after those that it is built on."""
    cells: list[Cell]


def read_study(path: Path) -> Study:
    """Read and check a study's file and those of its arms.

    Raises:
        DataError: naming what is wrong in which file.
        FileNotFoundError: for an arm's file or a configuration that does not exist.
    """
    content = read_mapping(Study, read_yaml(path), str(path), _REMEDY)
    for name, kind in _LISTS.items():
        _check_list(path, name, content.get(name, []), kind)
    given = content["arms"]
    if not isinstance(given, dict) or not given or "arm_budgets" in content:
        raise DataError.at(path, "arms", f"must be a mapping of names to files, got {given!r:.80}", _REMEDY)
    entries = {str(name): _arm_entry(path, str(name), arm) for name, arm in given.items()}
    arms = {name: _read_arm(resolve_config(entry["file"])) for name, entry in entries.items()}
    own = {name: entry["budgets"] for name, entry in entries.items() if "budgets" in entry}
    study = Study(**{**content, "arms": arms, "arm_budgets": own})
    types = {"name": str, "root": str, "parallel": int, "threads": int, "extra_test": dict, "estimates": dict}
    check_types(study, types, str(path))
    _check_values(study, path)
    return study


def _arm_entry(path: Path, name: str, given: Any) -> dict[str, Any]:
    """Read an arm's entry in the study's file: ``file``, and perhaps ``budgets``."""
    entry: dict[str, Any] = {"file": given} if isinstance(given, str) else given
    where, known = f"arms, {name!r}", ("file", "budgets")
    if not isinstance(entry, dict) or not isinstance(entry.get("file"), str) or set(entry) - set(known):
        raise DataError.at(path, where, f"must be a file, or a mapping of {list(known)}, got {given!r:.80}", _REMEDY)
    if "budgets" in entry:
        _check_list(path, f"{where}, budgets", entry["budgets"], int)
    return entry


def _read_arm(path: Path) -> Arm:
    content = read_mapping(Arm, read_yaml(path), str(path), "see configs/study/arms")
    stages = read_stages(content["stages"], path, given=(BUDGET, SEED))
    if taken := [stage.name for stage in stages if stage.name in (BUDGET, SEED)]:
        raise DataError.at(path, f"stage {taken[0]!r}", "its name has a meaning of its own", "choose another name")
    arm = Arm(stages, content.get("result") or stages[-1].name)
    tested = [stage.name for stage in stages if stage.test]
    if arm.result not in tested:
        raise DataError.at(path, "result", f"{arm.result!r} is no stage with a test", f"those with one are {tested}")
    return arm


def _check_list(path: Path, name: str, value: Any, kind: type) -> None:
    is_list = isinstance(value, list) and (bool(value) or name == "references")
    if not is_list or any(type(part) is not kind or part == "" for part in value):
        raise DataError.at(path, name, f"must be a list of {kind.__name__}, got {value!r:.80}", _REMEDY)
    if kind is int and any(part < 0 for part in value):
        raise DataError.at(path, name, f"must not be negative, got {value!r:.80}", _REMEDY)
    if len(set(value)) < len(value):
        raise DataError.at(path, name, f"has a value twice: {value!r:.80}", "give each once")


def _check_values(study: Study, path: Path) -> None:
    if study.name in ("", "..") or Path(study.name).name != study.name:
        raise DataError.at(path, "name", f"{study.name!r} is no folder's name", "give one without slashes")
    for name in ("parallel", "threads"):
        if getattr(study, name) < 1:
            raise DataError.at(path, name, f"must be at least 1, got {getattr(study, name)}", "correct the file")
    if unknown := [name for name in study.references if name not in study.arms]:
        raise DataError.at(path, "references", f"{unknown[0]!r} is no arm", f"there are {list(study.arms)}")
    check_keys(study.extra_test, f"{path}, extra_test")
    for config, seconds in study.estimates.items():
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
            raise DataError.at(path, "estimates", f"{config!r} must be seconds, got {seconds!r:.40}", _REMEDY)


def make_plan(
    study: Study,
    arms: Collection[str] | None = None,
    budgets: Collection[int] | None = None,
    seeds: Collection[int] | None = None,
) -> Plan:
    """Plan the stages and cells of a study, or of a part of it.

    Args:
        study: the whole.
        arms: of it; None for all.
        budgets: any, also others than the study's; an arm with a list of its own runs at none but those.
        seeds: any, also others than the study's.

    Raises:
        DataError: for an arm that it does not have, or where nothing is left.
    """
    if unknown := [name for name in arms or () if name not in study.arms]:
        raise DataError(f"no arm {unknown[0]!r} in the study; there are {list(study.arms)}")
    jobs: dict[Path, Job] = {}
    cells = []
    for seed in study.seeds if seeds is None else seeds:
        for name in study.arms if arms is None else arms:
            own = study.arm_budgets.get(name)
            for budget in study.budgets if budgets is None else budgets:
                if own is not None and budget not in own:
                    continue
                found = list(_jobs(study, study.arms[name], budget, seed))
                for job in found:
                    known = jobs.get(job.folder, job)
                    is_tested = known.test or job.test
                    jobs[job.folder] = job._replace(test=is_tested, is_result=known.is_result or job.is_result)
                result = next(job.folder for job in found if job.name == study.arms[name].result)
                cells.append(Cell(name, budget, seed, result, tuple(job.folder for job in found)))
    if not cells:
        raise DataError("nothing to run: no arm of the study has these budgets and seeds")
    return Plan(jobs, cells)


def _jobs(study: Study, arm: Arm, budget: int, seed: int) -> Iterator[Job]:
    """Yield the stages that the arm's result needs, in order."""
    made: dict[str, Job] = {}
    depends: set[str] = set()
    for stage in arm.stages:
        names = references(stage)
        if BUDGET in names or depends.intersection(names):
            depends.add(stage.name)
        place = study.folder / (f"n{budget}" if stage.name in depends else SHARED) / f"seed-{seed}"
        meaning = {BUDGET: str(budget), SEED: str(seed)} | {key: str(job.folder / MODEL) for key, job in made.items()}
        filled = {key: substitute_references(value, meaning.__getitem__) for key, value in stage.overrides.items()}
        label = f"{stage.name}-{_digest(study, stage.config, filled)}"
        whole = Pipeline([], {}, name=place.name, root=str(place.parent), seed=seed)
        command = fit_args(whole, Stage(label, stage.config, filled))
        inputs = tuple(made[name].folder for name in names if name in made)
        is_result = stage.name == arm.result
        made[stage.name] = Job(
            place / label, stage.name, stage.config, tuple(command), inputs, stage.test or is_result, is_result
        )
    yield from made.values()


def _digest(study: Study, config: str, overrides: Mapping[str, str]) -> str:
    """Compute six digits from a stage's configuration and overrides, independent of the study's folder."""
    texts = {key: value.replace(f"{study.folder}/", "") for key, value in overrides.items()}
    return hashlib.sha256(json.dumps([config, sorted(texts.items())]).encode()).hexdigest()[:6]


def repeat_args(config: str, cells: Sequence[Cell]) -> list[str]:
    """Write the arguments of ``lvad`` that run these cells alone."""
    parts = {"--arms": "arm", "--budgets": "budget", "--seeds": "seed"}
    given = {key: list(dict.fromkeys(str(getattr(cell, part)) for cell in cells)) for key, part in parts.items()}
    return ["study", "--config", config, *(text for key, values in given.items() for text in (key, *values))]
