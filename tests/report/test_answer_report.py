"""The files that the test of a second stage leaves."""

import torch
from answered import FORWARD, REASON, STOP, scene

from lvad.report.answer_report import label_tables, write_driving_report
from lvad.report.answers_file import read_answers

FRAMES = [torch.zeros(1, 3, 90, 160, dtype=torch.uint8)] * 2


def names(files):
    return {file.name for file in files}


def test_labelled_scenes_give_tables_and_figures(tmp_path):
    rows = [scene(str(i), STOP, FORWARD if i % 2 else STOP, REASON) for i in range(4)]
    files = write_driving_report(tmp_path, rows, FRAMES, {"test/x": 0.5})
    assert names(files) == {
        "answers.jsonl", "gallery.html", "labels.csv", "label_distribution.png", "label_f1.png", "action_confusion.png",
    }  # fmt: skip
    assert all(file.stat().st_size > 100 for file in files)
    assert read_answers(tmp_path / "answers.jsonl") == rows
    assert (tmp_path / "gallery.html").read_text().count("<article") == 2  # as many as there are frames
    page = (tmp_path / "gallery.html").read_text()
    assert f"<h1>{tmp_path.parent.name}/{tmp_path.name}: what was answered, the first 2 of 4 test scenes</h1>" in page
    assert str(tmp_path) not in page
    with_probabilities = [row._replace(action_probabilities=(0.1, 0.9, 0.0, 0.0)) for row in rows]
    assert "action_reliability.png" in names(write_driving_report(tmp_path, with_probabilities, FRAMES, {}))


def test_scenes_without_labels_give_answers_and_gallery_alone(tmp_path):
    files = write_driving_report(tmp_path, [scene("a", STOP, None, true_reasons=None)], FRAMES[:1], {})
    assert names(files) == {"answers.jsonl", "gallery.html"}
    assert label_tables([scene("a", STOP, None, true_reasons=None)], True) == []


def test_the_papers_tables_have_a_mean():
    rows = [scene("a", STOP, STOP, REASON), scene("b", STOP, FORWARD, REASON)]
    actions, reasons = label_tables(rows, True)
    # Stop: said twice, true once: F1 2/3; the mean over four actions is 1/6.
    assert actions.rows[1] == ("stop", "50.00", "1", "66.67")
    assert actions.rows[-1] == ("macro-F1", "-", "-", "16.67")
    assert reasons.rows[-1] == ("macro-F1", "-", "-", "4.76")  # 1 of 21
    assert len(label_tables(rows, False)) == 1
