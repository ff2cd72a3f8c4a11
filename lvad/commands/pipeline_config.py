"""A pipeline's configuration, and whether a stage is finished: pure functions of the contents of files.

A stage is finished if its record (``stage.json`` in its folder) says so, and says the same of it as the pipeline's
file now does: the command line, the content of its configuration, and which finished stages it was built on.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, NamedTuple

from lvad.assets import resolve_config
from lvad.commands.renamed_keys import check_keys
from lvad.commands.yaml_files import read_yaml
from lvad.errors import DataError
from lvad.report.runs import MODEL

REPLACED: Final = "replaced"
"""The folder, beside those of the stages, into which replaced ones are moved."""

_REFERENCE: Final = re.compile(r"\{([A-Za-z_][\w-]*)\}")
_NAME: Final = re.compile(r"[A-Za-z][\w-]*")
_LOGGER: Final = "lvad.report.board.TensorBoard"
_RESERVED_KEYS: Final = ("config", "ckpt_path", "seed_everything", "trainer.logger", "recorder.run_dir")
_REMEDY: Final = "see configs/pipeline.yaml"


@dataclass(frozen=True)
class Stage:
    """One run of ``lvad fit``.

    Args:
        name: of the stage and of its folder.
        config: a configuration of ``lvad fit``.
        overrides: dotted key to value, which wins over the pipeline's seed; ``{name}`` in a value is the exported model
            of that earlier stage.
        test: run ``lvad test`` after the fit.
    """

    name: str
    config: str
    overrides: dict[str, Any] = field(default_factory=dict)
    test: bool = True


@dataclass(frozen=True)
class Pipeline:
    """Stages in order, and which of them are compared.

    Args:
        stages: in order of execution.
        compare: name of an arm to the stage that it is; the differences are the first one's minus each other's.
        name: of the folder under ``root``.
        root: of all pipelines.
        seed: every stage's ``seed_everything`` and ``data.seed``, so that the labelled scenes differ too; None leaves
            both to the configurations.
    """

    stages: list[Stage]
    compare: dict[str, str]
    name: str = "pipeline"
    root: str = "logs/pipeline"
    seed: int | None = None

    @property
    def folder(self) -> Path:
        """The folder of this pipeline."""
        return Path(self.root) / self.name


class Record(NamedTuple):
    """The record of a stage's last fit and test, as ``stage.json`` holds it."""

    command: list[str]
    """The arguments of the fit, as typed after ``lvad``."""
    config_sha256: str
    inputs: dict[str, str]
    """The ``finished`` time of each stage that it was built on."""
    finished: str | None = None
    """Time at which the fit ended; None while it has not."""
    fit_s: float | None = None
    """Wall seconds of the fit; of an interrupted one, those since it was resumed."""
    test_s: float | None = None
    """Wall seconds of the test; None before it."""
    commit: str | None = None
    """Commit of the code, where it is known."""
    device: str | None = None
    """Device of the fit, where it was chosen."""


def read_pipeline(path: Path, **given: Any) -> Pipeline:
    """Read and check a pipeline's YAML file.

    Args:
        path: the file.
        given: values of the command line, which win over the file's; None is not given.

    Raises:
        DataError: for a file that is no YAML, an unknown key, a value of another type, a stage name given twice, or a
            reference to a stage that does not come before.
        FileNotFoundError: for a stage's configuration that does not exist.
    """
    content = read_mapping(Pipeline, read_yaml(path), str(path))
    content |= {key: value for key, value in given.items() if value is not None}
    stages = read_stages(content["stages"], path)
    pipeline = Pipeline(**{**content, "stages": stages})
    check_types(pipeline, {"name": str, "root": str, "seed": int | None, "compare": dict}, str(path))
    if pipeline.name in ("", "..") or Path(pipeline.name).name != pipeline.name:
        raise DataError.at(
            path, "name", f"{pipeline.name!r} is no folder's name", "give one without slashes; root may have them"
        )
    _check_compare(pipeline, path)
    return pipeline


def read_stages(rows: Any, path: Path, given: Collection[str] = ()) -> list[Stage]:
    """Read and check a list of stages.

    Args:
        rows: of the file.
        path: the file.
        given: names in braces that are no stages.

    Raises:
        DataError: as ``read_pipeline``.
        FileNotFoundError: for a stage's configuration that does not exist.
    """
    if not isinstance(rows, list) or not rows:
        raise DataError.at(path, "stages", f"must be a list of stages, got {rows!r:.80}", _REMEDY)
    stages = [Stage(**read_mapping(Stage, row, f"{path}, stages[{i}]")) for i, row in enumerate(rows)]
    for i, stage in enumerate(stages):
        types = {"name": str, "config": str, "overrides": dict, "test": bool}
        check_types(stage, types, str(path), f"stages[{i}].")
    _check_stages(stages, path, given)
    return stages


def references(stage: Stage) -> list[str]:
    """List the names in braces of a stage's overrides, such as the earlier stages that it is built on."""
    texts = [_argument_text(value) for value in stage.overrides.values()]
    return list(dict.fromkeys(name for text in texts for name in _REFERENCE.findall(text)))


def fit_args(pipeline: Pipeline, stage: Stage) -> list[str]:
    """Write the arguments of ``lvad`` that fit a stage alone, into its folder."""
    args = ["fit", "--config", stage.config]
    if pipeline.seed is not None:
        args += ["--seed_everything", str(pipeline.seed), "--data.seed", str(pipeline.seed)]
    for key, value in stage.overrides.items():
        args += [f"--{key}", substitute_references(value, lambda name: str(pipeline.folder / name / MODEL))]
    place = {"save_dir": pipeline.root, "name": pipeline.name, "version": stage.name}
    args += ["--trainer.logger", _LOGGER]
    return args + [part for key, value in place.items() for part in (f"--trainer.logger.init_args.{key}", value)]


def substitute_references(value: Any, meaning: Callable[[str], str]) -> str:
    """Write a value as it is typed on the command line, with the names in braces replaced."""
    return _REFERENCE.sub(lambda found: meaning(found[1]), _argument_text(value))


def expected_record(pipeline: Pipeline, stage: Stage, records: Mapping[str, Record]) -> Record:
    """Make the record of a fit that begins now.

    Args:
        pipeline: the whole.
        stage: of it.
        records: of the stages before, all finished.
    """
    inputs = {name: records[name].finished or "" for name in references(stage)}
    return Record(fit_args(pipeline, stage), config_sha256(stage.config), inputs)


def config_sha256(name: str) -> str:
    """Compute the digest of a configuration's content."""
    return hashlib.sha256(resolve_config(name).read_bytes()).hexdigest()


def why_stale(known: Record | None, expected: Record) -> str:
    """Say why an earlier fit is not the one that is asked for now; empty where it is."""
    if known is None:
        return "it has not run yet"
    if known.command != expected.command:
        changed = [option for option in _options(expected.command) if option not in _options(known.command)]
        return f"its command line changed: {' '.join(changed) or 'fewer options'}"
    if known.config_sha256 != expected.config_sha256:
        return "its configuration file changed"
    anew = [name for name, finished in expected.inputs.items() if known.inputs.get(name) != finished]
    return f"{', '.join(anew)} ran anew" if anew else ""


def _options(command: Sequence[str]) -> list[str]:
    return [f"{key} {value}" for key, value in zip(command[1::2], command[2::2], strict=True)]


def _argument_text(value: Any) -> str:
    """Write a value as it is typed on the command line."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def read_mapping(kind: type, content: Any, where: str, remedy: str = _REMEDY) -> dict[str, Any]:
    """Check that a mapping in a file has the fields of a dataclass, none unknown and none missing.

    Raises:
        DataError: for a part that is no mapping, an unknown key, or one that is missing.
    """
    known = [part.name for part in fields(kind)]
    if not isinstance(content, dict):
        raise DataError(f"{where}: must be a mapping of {known}, got {content!r:.80}; {remedy}")
    required = [part.name for part in fields(kind) if part.default is part.default_factory is MISSING]
    missing = [name for name in required if name not in content]
    unknown = [name for name in content if name not in known]
    if unknown or missing:
        problem = f"unknown key {unknown[0]!r}" if unknown else f"no {missing[0]!r}"
        raise DataError(f"{where}: {problem}; it takes {known}")
    return dict(content)


def check_types(part: Any, types: Mapping[str, Any], where: str, prefix: str = "") -> None:
    """Refuse values of another type; True and False are no numbers.

    Raises:
        DataError: naming the first one.
    """
    for name, kind in types.items():
        value = getattr(part, name)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            wanted = kind.__name__ if isinstance(kind, type) else str(kind)
            raise DataError.at(where, prefix + name, f"must be {wanted}, got {value!r:.80}", "correct the file")


def _check_stages(stages: Sequence[Stage], path: Path, given: Collection[str]) -> None:
    names = [stage.name for stage in stages]
    for i, stage in enumerate(stages):
        where = f"stage {stage.name!r}"
        if not _NAME.fullmatch(stage.name) or stage.name == REPLACED:
            raise DataError.at(
                path, where, f"its name must be letters, digits, - and _, not {REPLACED!r}", "it names a folder"
            )
        if stage.name in names[:i]:
            raise DataError.at(path, where, "its name is given twice", "each stage has a folder of its own")
        resolve_config(stage.config)
        if taken := [key for key in stage.overrides if str(key).startswith(_RESERVED_KEYS)]:
            raise DataError.at(path, where, f"overrides {taken[0]!r}, which the pipeline sets", "leave it out")
        check_keys(stage.overrides, f"{path}, {where}")
        for name in references(stage):
            if name in given:
                continue
            if name not in names:
                raise DataError.at(path, where, f"refers to an unknown stage {{{name}}}", f"there are {names}")
            if name not in names[:i]:
                raise DataError.at(path, where, f"refers to {{{name}}}, which does not come before it", "reorder them")


def _check_compare(pipeline: Pipeline, path: Path) -> None:
    tested = [stage.name for stage in pipeline.stages if stage.test]
    for arm, name in pipeline.compare.items():
        if name not in tested:
            problem = f"{name!r} is no stage with a test"
            raise DataError.at(path, f"compare, {arm!r}", problem, f"those with a test are {tested}")
