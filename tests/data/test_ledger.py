"""The ledger finds a planted leak, wherever it was planted."""

import pytest

from lvad.data.ledger import LEDGER, check_leakage, dump_ledger, merge_ledgers, read_ledger, stage_ledger
from lvad.errors import DataError
from lvad.types import Scene


def scene(name, labelled=True):
    return Scene(name, (), "train", (0, 1, 0, 0) if labelled else None, None)


def test_uses_name_the_stage_the_split_and_whether_labels_were_seen():
    splits = {"train": [scene("b", False), scene("a")], "val": [scene("c")], "test": [scene("d")]}
    found = stage_ledger("RLOOPolicy", splits)
    assert found == {
        "RLOOPolicy train, unlabelled": ["b"], "RLOOPolicy train, labelled": ["a"], "RLOOPolicy val, labelled": ["c"],
    }  # fmt: skip


def test_ledgers_travel_through_files(tmp_path):
    ledger = merge_ledgers([{"A train": ["x", "y"]}, {"B train": ["z"]}, {"A train": ["w", "x"]}])
    assert ledger == {"A train": ["w", "x", "y"], "B train": ["z"]}
    (tmp_path / LEDGER).write_text(dump_ledger(ledger))
    assert read_ledger(tmp_path) == ledger
    assert read_ledger(tmp_path / "elsewhere") == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"A": "x"}', '{"A": [1]}'])
def test_what_is_no_ledger_is_named(tmp_path, text):
    (tmp_path / LEDGER).write_text(text)
    with pytest.raises(DataError, match=LEDGER):
        read_ledger(tmp_path)


def test_a_planted_leak_is_found():
    ledger = {"A train, labelled": ["x"], "B val, labelled": ["y", "z"]}
    check_leakage(ledger, ["p", "q"])
    with pytest.raises(DataError, match=r"1 test scenes were seen before, as B val, labelled: \['z'\]"):
        check_leakage(ledger, ["p", "z"])


def test_a_text_is_a_label_too():
    scenes = [Scene("a", (), "train", captions=("It is night.",)), Scene("b", (), "train")]
    assert stage_ledger("ActionSFT", {"train": scenes}) == {
        "ActionSFT train, labelled": ["a"],
        "ActionSFT train, unlabelled": ["b"],
    }
