"""Numbers and nulls on the command line, as jsonargparse reads them with the patches and without."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Union

import pytest
from jsonargparse import ArgumentError, ArgumentParser, _typehints
from lightning import LightningModule

from lvad.commands.jsonargparse_patches import (
    _adapt_class_type,
    _rank_of_type,
    pass_null_to_classes,
    prefer_int_to_float,
)

FLOAT_FIRST: Any = Union[float, int, None]  # noqa: UP007
"""What ``Optional[int | float]`` may come out as; ``X | Y`` is another type, which typing keeps apart."""

MANY: Any = Union[float, int, str, timedelta, None]  # noqa: UP007
"""As Lightning's ``val_check_interval``."""


POLICY = "--model.init_args.policy.init_args"
CLASSES = [
    "--model", "lvad.modules.RLOOPolicy", "--model.init_args.policy", "lvad.policy.HFPolicy",
    "--model.init_args.reward", "lvad.rewards.BLEU",
]  # fmt: skip
BEFORE = {"images.splitting": "true", "images.longest_edge_px": "512", "completions_at_once": "4"}


@dataclass
class Counts:
    train: FLOAT_FIRST = None


@pytest.fixture
def number_parser(monkeypatch: pytest.MonkeyPatch) -> ArgumentParser:
    monkeypatch.setattr(_typehints, "union_subtype_sort_key", _rank_of_type)
    prefer_int_to_float()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--limit", type=FLOAT_FIRST)
    parser.add_argument("--counts", type=Counts)
    parser.add_argument("--interval", type=MANY)
    return parser


@pytest.mark.parametrize(("typed", "value"), [("1", 1), ("1.0", 1.0), ("0.5", 0.5), ("null", None)])
def test_a_whole_number_is_a_count(number_parser: ArgumentParser, typed: str, value: float | None) -> None:
    read = number_parser.parse_args(["--limit", typed, "--counts", f"{{train: {typed}}}", "--interval", typed])
    for found in (read.limit, read.counts.train, read.interval):
        assert (found, type(found)) == (value, type(value))


def test_jsonargparse_alone_reads_a_count_as_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_typehints, "union_subtype_sort_key", _rank_of_type)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--limit", type=FLOAT_FIRST)
    assert isinstance(parser.parse_args(["--limit", "1"]).limit, float)


@pytest.fixture
def class_parser(monkeypatch: pytest.MonkeyPatch) -> ArgumentParser:
    monkeypatch.setattr(_typehints, "adapt_class_type", _adapt_class_type)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model")
    return parser


def test_null_is_null(class_parser: ArgumentParser) -> None:
    pass_null_to_classes()
    given = [f"{POLICY}.{key}={value}" for key, value in BEFORE.items()]
    nulls = [part for key in ("lora", *BEFORE) for part in (f"{POLICY}.{key}", "null")]
    policy = class_parser.parse_args(
        [*CLASSES, *given, *nulls, f"{POLICY}.prompts.describe", "null"]
    ).model.init_args.policy
    assert [policy.init_args[key] for key in ("lora", *BEFORE)] == [None] * 4
    assert policy.init_args.prompts.describe == "null"  # a text, as nothing else may stand there


def test_null_within_an_object_is_null(class_parser: ArgumentParser) -> None:
    pass_null_to_classes()
    given = [f"{POLICY}.images", "{splitting: null, longest_edge_px: 512}", f"{POLICY}.lora=null", f"{POLICY}.model=x"]
    images = class_parser.parse_args([*CLASSES, *given]).model.init_args.policy.init_args.images
    assert (images.splitting, images.longest_edge_px) == (None, 512)


def test_jsonargparse_alone_reads_the_text_none(class_parser: ArgumentParser) -> None:
    """Where this fails, ``pass_null_to_classes`` is needed no more."""
    with pytest.raises(ArgumentError):
        class_parser.parse_args([*CLASSES, f"{POLICY}.lora", "null"])
