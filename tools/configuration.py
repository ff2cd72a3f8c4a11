"""Writes docs/configuration.md: every key of a configuration, from the constructors' signatures and docstrings.

python tools/configuration.py
"""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml
from docstring_parser import parse_from_object

import lvad.estimators
import lvad.rewards
from lvad.callbacks import AverageWeights, KLRate
from lvad.callbacks.fit_plan import FitPlan
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.source import Source
from lvad.data.split import Split
from lvad.modules import ActionSFT, CLIPReward, RLOOPolicy, TextReader
from lvad.objectives import CrossEntropy, ExpectedBLEU, MinimumRiskBLEU
from lvad.policy import HFPolicy
from lvad.report.alarms import Alarms
from lvad.report.board import TensorBoard
from lvad.report.predictions import PredictionWriter
from lvad.report.recorder import RunRecorder
from lvad.types import Policy, Reward

PAGE = Path(__file__).resolve().parents[1] / "docs/configuration.md"
INTRODUCTION = """# Configuration

<!-- Written by python tools/configuration.py; a test compares. -->

A configuration is the constructors' arguments as YAML. `class_path` names a class, `init_args` holds its arguments. On
the command line the same keys are joined by dots, as in `--model.init_args.num_completions 4`. `lvad fit --config FILE
--print_config` prints a whole configuration. The keys `trainer`, `checkpoint`, `seed_everything` and `ckpt_path` are
Lightning's own: `lvad fit --help` lists them.
"""
OPEN_TYPES = {Policy: "Policies", Reward: "Rewards", lvad.estimators.Estimator: "Estimators"}
"""Types that any class with their methods has, and the section that lists those of lvad."""


class Section(NamedTuple):
    """A part of the page: classes, and the keys of a configuration that name them."""

    title: str
    keys: str
    classes: tuple[type, ...]


def sections() -> list[Section]:
    """All parts of the page; the last one holds the classes that arguments of the others have as their type."""
    estimators = _exported(lvad.estimators, lambda one: issubclass(one, lvad.estimators.Estimator))
    found = [
        Section("Stages", "`model`", (CLIPReward, RLOOPolicy, ActionSFT, TextReader)),
        Section("Data", "`data`, `data.source` and `data.split`", (BDDOIADataModule, Source, Split)),
        Section("Policies", "`policy` of a stage", (HFPolicy,)),
        Section(
            "Rewards", "`reward` and `judge` of a stage", _exported(lvad.rewards, lambda one: hasattr(one, "score"))
        ),
        Section("Estimators", "`estimator` of `RLOOPolicy`", tuple(one for one in estimators if one not in OPEN_TYPES)),
        Section("Supervised objectives", "`objective` of `ActionSFT`", (CrossEntropy, ExpectedBLEU, MinimumRiskBLEU)),
        Section("Plan of a fit", "`plan`", (FitPlan,)),
        Section("Record of a run", "`recorder`", (RunRecorder,)),
        Section("Alarms", "`alarms`", (Alarms,)),
        Section("Predictions", "`predictions`", (PredictionWriter,)),
        Section("Callbacks", "`trainer.callbacks`", (KLRate, AverageWeights)),
        Section("Logger", "`trainer.logger`", (TensorBoard,)),
    ]
    listed = [one for section in found for one in section.classes]
    return [*found, Section("Parts", "arguments of the classes above", tuple(_parts(listed, {*listed, *OPEN_TYPES})))]


def _exported(package: Any, is_wanted: Any) -> tuple[type, ...]:
    return tuple(filter(is_wanted, (getattr(package, name) for name in package.__all__)))


def _parts(classes: Iterable[type], seen: set[type]) -> Iterator[type]:
    """Classes of lvad that are the type of an argument, each once, those of their own arguments included."""
    for one in classes:
        for parameter in parameters(one):
            for part in _classes_in(parameter.annotation):
                if part not in seen and part.__module__.startswith("lvad.") and not inspect.isabstract(part):
                    seen.add(part)
                    if parameters(part):
                        yield part
                    yield from _parts([part], seen)


def _classes_in(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for part in get_args(annotation):
        yield from _classes_in(part)


def parameters(one: type) -> list[inspect.Parameter]:
    """What a class can be told by name; ``*args`` and ``**options``, which are handed on, are left out."""
    found = inspect.signature(one, eval_str=True).parameters.values()
    handed_on = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [parameter for parameter in found if parameter.kind not in handed_on]


def class_path(one: type) -> str:
    """The shortest name that a configuration can have for a class."""
    parts = one.__module__.split(".")
    for end in range(1, len(parts)):
        package = ".".join(parts[:end])
        if getattr(importlib.import_module(package), one.__name__, None) is one:
            return f"{package}.{one.__name__}"
    return f"{one.__module__}.{one.__name__}"


def _table(one: type) -> str:
    """The arguments of a class.

    Raises:
        KeyError: for an argument that the class's docstring does not describe.
    """
    said = {part.arg_name: part.description for part in parse_from_object(one).params}
    rows = [
        f"| `{each.name}` | {_type(each.annotation)} | {_default(one, each)} | {_cell(said[each.name])} |"
        for each in parameters(one)
    ]
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows]) if rows else "No arguments."


def _cell(text: str | None) -> str:
    """A docstring's text in a cell, with YAML's word for None."""
    text = re.sub(r"\bNone\b(?! of)", "null", text or "")
    return " ".join(text.replace("``", "`").replace("|", "\\|").split())


def _type(annotation: Any) -> str:
    """A type as a reader of YAML sees it; classes by their last name."""
    text = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    if "lr_scheduler" in text:
        return "a class of `torch.optim.lr_scheduler`, or null"
    if "Optimizer" in text:
        return "a class of `torch.optim`"
    text = re.sub(r"\b(?:[a-z_]\w*\.)+(?=\w)", "", text)
    text = re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace(", ", " or "), text)
    return f"`{text.replace('None', 'null').replace(' | ', ' or ')}`"


def _default(one: type, parameter: inspect.Parameter) -> str:
    """A default as a configuration has it."""
    value = parameter.default
    if repr(value) == "<factory>":
        (factory,) = (f.default_factory for f in dataclasses.fields(one) if f.name == parameter.name)  # type: ignore
        value = factory()
    if value is inspect.Parameter.empty:
        return "required"
    if isinstance(value, type):
        return f"`{value.__name__}`"
    if type(value).__module__.startswith("lvad."):
        return f"`{type(value).__name__}()`"
    value = list(value) if isinstance(value, tuple) else value
    written = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    written = written.removesuffix("...\n").strip()  # the end of a document, behind a bare value
    return f"`{written}`"


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for section in sections():
        parts += [f"## {section.title}", f"Named by: {section.keys}."]
        for one in section.classes:
            summary = _cell((one.__doc__ or "").strip().partition("\n\n")[0])
            parts += [f"### `{class_path(one)}`", summary, _table(one)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
