"""The record of answers: what is written is what is read, and every wrong line is named."""

import json

import pytest
from answered import FORWARD, NO_REASON, REASON, STOP, scene

from lvad.report.answers_file import label_matrices, read_answers, write_answers


def test_what_is_written_is_what_is_read(tmp_path):
    rows = [
        scene("a/../b\n<script>", STOP, FORWARD, text="Ünïcode \ud800 \u2028 'quotes\"", description="日本"),
        scene("", STOP, None, true_reasons=None, is_valid=False, action_probabilities=(0.0, 1.0, 0.25, 1e-9)),
        scene("c", STOP, STOP, reason_probabilities=(0.5,) * 21, recording="drive"),
    ]
    path = write_answers(tmp_path / "deep" / "answers.jsonl", rows)
    assert read_answers(path) == rows
    assert path.read_bytes().isascii()
    assert len(path.read_text().splitlines()) == 3


def test_a_file_of_an_earlier_lvad_names_no_recordings(tmp_path):
    old = scene("a", STOP, FORWARD)._asdict()
    del old["recording"]
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps(old) + "\n")
    assert read_answers(path) == [scene("a", STOP, FORWARD)]


def row(**changes):
    return scene("a", STOP, STOP)._asdict() | changes


@pytest.mark.parametrize(
    ("line", "flaw"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object"),
        (json.dumps({"id": "a"}), "must have the entries of an AnsweredScene"),
        (json.dumps(row(more=1)), "has .*more"),
        (json.dumps(row(id=3)), "id must be a text"),
        (json.dumps(row(recording=None)), "recording must be a text"),
        (json.dumps(row(is_valid=1)), "is_valid must be true or false"),
        (json.dumps(row(actions=[0, 1, 0])), "actions must be 4 zeros and ones"),
        (json.dumps(row(actions=[0, True, 0, 0])), "actions must be 4 zeros and ones"),
        (json.dumps(row(actions=None)), "actions must be 4 zeros and ones, got None"),
        (json.dumps(row(true_reasons=[2] * 21)), "true_reasons must be 21 zeros and ones or null"),
        (json.dumps(row(action_probabilities=[0.5] * 3)), "must be empty or 4 numbers"),
        (json.dumps(row(action_probabilities=[float("nan")] * 4)), "must be empty or 4 numbers"),
        (json.dumps(row(reason_probabilities=[1.5] * 21)), "must be empty or 21 numbers"),
        (json.dumps(row(id="first")), "stands on line 1 already"),
    ],
)
def test_a_wrong_line_is_named_with_its_file(tmp_path, line, flaw):
    path = write_answers(tmp_path / "answers.jsonl", [scene("first", STOP, STOP)])
    with path.open("a") as lines:
        lines.write(line + "\n")
    with pytest.raises(ValueError, match=rf"answers.jsonl, line 2.*{flaw}"):
        read_answers(path)


def test_bytes_that_are_no_text_and_bottomless_nesting_are_named_too(tmp_path):
    for content in (b"\xff\xfe\n", b"[" * 100_000 + b"\n"):
        (tmp_path / "answers.jsonl").write_bytes(content)
        with pytest.raises(ValueError, match="line 1 is not JSON"):
            read_answers(tmp_path / "answers.jsonl")


def test_what_could_not_be_read_is_not_written(tmp_path):
    path = write_answers(tmp_path / "answers.jsonl", [scene("a", STOP, STOP)])
    with pytest.raises(ValueError, match="scene 'b': actions must be"):
        write_answers(path, [scene("b", (0, 1), STOP)])
    with pytest.raises(ValueError, match="scene 'b': two answers have this id"):
        write_answers(path, [scene("b", STOP, STOP), scene("b", STOP, FORWARD)])
    assert [one.id for one in read_answers(path)] == ["a"]


def test_scenes_without_labels_are_counted_and_left_out():
    rows = [scene("a", STOP, FORWARD), scene("b", STOP, None), scene("c", STOP, STOP, true_reasons=None)]
    found = label_matrices(rows, 25)
    assert found.num_unlabelled == 2
    assert found.true.tolist() == [[*FORWARD, *REASON]]
    assert found.predicted.tolist() == [[*STOP, *NO_REASON]]
