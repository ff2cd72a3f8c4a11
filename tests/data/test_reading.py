"""Label files in every encoding in which they are found."""

import codecs
import json
from pathlib import Path

import pytest
from layouts import FACTS, GO, GREEN, RED, STOP, gt, lastframe

from lvad.data.layouts import read_source
from lvad.data.reading import read_text
from lvad.errors import DataError

ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_labels_are_read_with_a_mark_and_in_wide_characters(tmp_path: Path, encoding: str) -> None:
    gt(tmp_path / "gt", "train", {"a": (GO, GREEN), "b": (STOP, RED)})
    lastframe(tmp_path / "last", "train", [("a_1.jpg", STOP, RED), ("b_1.jpg", GO, GREEN)])
    row = {"id": "a_1", "captions": ["Ein Fußgänger."], "facts": FACTS}
    (tmp_path / "last/train_scenes.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    before = [read_source(tmp_path / folder).require().scenes for folder in ("gt", "last")]
    for path in [*tmp_path.rglob("*.json"), *tmp_path.rglob("*.jsonl")]:
        path.write_text(path.read_text(encoding="utf-8"), encoding=encoding)
    assert [read_source(tmp_path / folder).require().scenes for folder in ("gt", "last")] == before
    assert before[1][0].captions == ("Ein Fußgänger.",)


def test_lines_end_alike_in_every_encoding(tmp_path: Path) -> None:
    for encoding in ("utf-8", *ENCODINGS):
        (tmp_path / "a.txt").write_bytes("a\r\nü\n".encode(encoding))
        assert read_text(tmp_path / "a.txt") == "a\nü\n"
    (tmp_path / "empty.txt").touch()
    assert read_text(tmp_path / "empty.txt") == ""


@pytest.mark.parametrize("content", [b"{\xff}", codecs.BOM_UTF16_LE + b"{", codecs.BOM_UTF8 + b"\xc3("])
def test_what_no_encoding_reads_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "gt_4a_21r_train.json").write_bytes(content)
    (error,) = read_source(tmp_path).errors
    assert "gt_4a_21r_train.json: cannot be read" in str(error)


def test_the_remedy_names_a_command_that_exists(tmp_path: Path) -> None:
    gt(tmp_path, "train", {"a": (GO, GREEN[1:]), "b": (GO, GREEN[1:])})
    with pytest.raises(DataError, match="1 more; `lvad data check` lists all"):
        read_source(tmp_path).require()
