from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Union

import pytest
from jsonargparse import ArgumentParser, _typehints

from lvad.commands.number_types import _rank_of_type, count_before_share

FLOAT_FIRST: Any = Union[float, int, None]  # noqa: UP007
"""What ``Optional[int | float]`` may come out as; ``X | Y`` is another type, which typing keeps apart."""

MANY: Any = Union[float, int, str, timedelta, None]  # noqa: UP007
"""As Lightning's ``val_check_interval``."""


@dataclass
class Counts:
    train: FLOAT_FIRST = None


@pytest.fixture
def parser(monkeypatch: pytest.MonkeyPatch) -> ArgumentParser:
    monkeypatch.setattr(_typehints, "union_subtype_sort_key", _rank_of_type)
    count_before_share()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--limit", type=FLOAT_FIRST)
    parser.add_argument("--counts", type=Counts)
    parser.add_argument("--interval", type=MANY)
    return parser


@pytest.mark.parametrize(("typed", "value"), [("1", 1), ("1.0", 1.0), ("0.5", 0.5), ("null", None)])
def test_a_whole_number_is_a_count(parser: ArgumentParser, typed: str, value: float | None) -> None:
    read = parser.parse_args(["--limit", typed, "--counts", f"{{train: {typed}}}", "--interval", typed])
    for found in (read.limit, read.counts.train, read.interval):
        assert (found, type(found)) == (value, type(value))


def test_jsonargparse_alone_reads_a_count_as_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_typehints, "union_subtype_sort_key", _rank_of_type)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--limit", type=FLOAT_FIRST)
    assert isinstance(parser.parse_args(["--limit", "1"]).limit, float)
