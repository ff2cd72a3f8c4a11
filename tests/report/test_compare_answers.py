"""Runs side by side, on four scenes worked out by hand: one is forward, three are stop."""

import json

import pytest
from answered import FORWARD, NOTHING, REASON, STOP, write_run

from lvad.errors import DataError
from lvad.metrics.intervals import Interval
from lvad.report.compare_answers import LabelCounts, compare_answers, excludes_zero, label_budget, read_run, run_names

RIGHT, STOPS = (FORWARD, STOP, STOP, STOP), (STOP,) * 4


@pytest.fixture
def runs(tmp_path):
    """What is right with reasons, and a model that always stops and names none."""
    right = write_run(tmp_path / "right", RIGHT, reasons=REASON)
    stops = write_run(tmp_path / "stops", [STOP, STOP, STOP, STOP])
    return [read_run(folder, folder.name) for folder in (right, stops)]


def test_scores_floors_and_differences(runs):
    found = compare_answers(runs)
    assert (found.num_scenes, found.first) == (4, "right")
    assert list(found.arms) == ["right", "stops"]
    assert list(found.floors) == ["always stop", "all positive", "all negative"]
    assert found.arms["right"]["action_exact_match"] == Interval(1, 1, 1)
    # Two of four classes occur and are right: macro-F1 is 2 / 4.
    assert found.arms["right"]["action_macro_f1"].mean == pytest.approx(0.5)
    # Always stop: F1 of stop is 2 * 3 / (2 * 3 + 1) = 6 / 7, over 4 classes 6 / 28.
    for scores in (found.arms["stops"], found.floors["always stop"]):
        assert scores["action_macro_f1"].mean == pytest.approx(6 / 28)
        assert scores["action_exact_match"].mean == pytest.approx(3 / 4)
    difference = found.differences["stops"]["action_macro_f1"]
    assert difference.mean == pytest.approx(0.5 - 6 / 28)
    assert difference == found.differences["always stop"]["action_macro_f1"]


def test_a_run_of_actions_alone_is_compared_on_actions(runs):
    found = compare_answers(runs)
    assert "reason_macro_f1" in found.arms["right"]
    assert "reason_macro_f1" not in found.arms["stops"]
    assert "reason_macro_f1" not in found.differences["stops"]
    assert "reason_macro_f1" not in found.floors["always stop"]
    # One of 21 reasons is true everywhere; who names all of them has F1 1 on it.
    assert found.floors["all positive"]["reason_macro_f1"].mean == pytest.approx(1 / 21)


def test_a_run_whose_reasons_are_all_empty_has_predicted_reasons_if_its_test_scored_them(tmp_path):
    folder = write_run(tmp_path, STOPS)
    assert not read_run(folder, "a").with_reasons
    (folder / "metrics.json").write_text('{"test/reason_macro_f1": 0.0}')
    assert read_run(folder, "a").with_reasons


def test_reasons_that_nobody_asked_for_are_not_scored(tmp_path):
    """A model that writes freely may name some behind its action."""
    folder = write_run(tmp_path, STOPS, reasons=REASON)
    assert read_run(folder, "a").with_reasons
    (folder / "metrics.json").write_text('{"test/action_macro_f1": 0.5}')
    assert not read_run(folder, "a").with_reasons
    (folder / "metrics.json").write_text('{"val/loss": 0.5}')  # of the fit: what the test scored is not known
    assert read_run(folder, "a").with_reasons


def test_scenes_are_paired_by_id_whatever_their_order(runs, tmp_path):
    said, true = (STOP, STOP, STOP, FORWARD), (STOP, STOP, STOP, FORWARD)
    turned = read_run(write_run(tmp_path / "turned", said, true, names="dcba", reasons=REASON), "turned")
    found = compare_answers([runs[0], turned])
    assert all(value == Interval(0, 0, 0) for value in found.differences["turned"].values())


@pytest.mark.parametrize(
    ("names", "true", "message"),
    [
        ("abxy", RIGHT, r"'other' lacks 2 scenes of 'right', such as \['c', 'd'\], and 'right' lacks 2 .*\['x', 'y'\]"),
        ("abcd", (STOP, STOP, STOP, STOP), "the true actions of 1 scenes differ between 'right' and 'other'"),
    ],
)
def test_other_scenes_and_other_truths_are_refused(runs, tmp_path, names, true, message):
    other = read_run(write_run(tmp_path / "other", STOPS, true, names), "other")
    with pytest.raises(DataError, match=message):
        compare_answers([runs[0], other])


def test_names_must_tell_runs_from_each_other_and_from_floors(runs):
    with pytest.raises(DataError, match="two runs are named 'a'; tell them apart with --names"):
        compare_answers([run._replace(name="a") for run in runs])
    with pytest.raises(DataError, match="cannot be named 'always stop'"):
        compare_answers([runs[0]._replace(name="always stop")])


def test_names_are_the_parts_that_differ(tmp_path):
    one, two, three = (tmp_path / name for name in ("a/version_0", "b/version_0", "b/version_1"))
    assert run_names([one, two]) == ["a/version_0", "b/version_0"]
    assert run_names([three]) == ["b/version_1"]
    assert run_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert run_names([tmp_path / "x/a/m", tmp_path / "y/a/m"]) == ["x/a/m", "y/a/m"]
    with pytest.raises(DataError, match="given twice"):
        run_names([one, one.parent / "../a/version_0"])


def test_what_cannot_be_read_names_the_remedy(tmp_path):
    remedy = f"lvad test --config {tmp_path}/config.yaml --ckpt_path {tmp_path}/checkpoints/best.ckpt"
    with pytest.raises(DataError, match=r"no run folder at .*nothing; give folders such as"):
        read_run(tmp_path / "nothing", "a")
    with pytest.raises(DataError) as raised:
        read_run(tmp_path, "a")
    assert "has no answers.jsonl" in str(raised.value)
    assert remedy in str(raised.value)
    (tmp_path / "answers.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no scene"):
        read_run(tmp_path, "a")
    (tmp_path / "answers.jsonl").write_text("{]\n")
    with pytest.raises(DataError, match=r"answers.jsonl, line 1 is not JSON: .*; write the file anew with: lvad test"):
        read_run(tmp_path, "a")
    write_run(tmp_path, STOPS, (STOP, STOP, None, None))
    with pytest.raises(DataError, match=r"2 of 4 scenes have no labels, such as \['c', 'd'\]; test the run on scenes"):
        read_run(tmp_path, "a")


def test_reasons_without_labels_are_refused(tmp_path):
    folder = write_run(tmp_path, STOPS, reasons=REASON, true_reasons=None)
    with pytest.raises(DataError, match="scene a has no labels"):
        compare_answers([read_run(folder, "a")])


def test_a_budget_counts_each_labelled_scene_once(tmp_path):
    ledger = {
        "CLIPReward train, labelled": ["a", "b"],
        "ActionSFT train, labelled": ["b", "c"],
        "RLOOPolicy train, unlabelled": ["d", "e"],
        "ActionSFT val, labelled": ["f", "a"],
        "RLOOPolicy rehearsal train, labelled": ["c", "g"],
        "ActionSFT train, pseudo-labelled": ["h"],
    }
    # a, b, c and g to train on, f and a to validate on; a counts once.
    assert label_budget(ledger) == LabelCounts(labels=5, train=4, val=2)
    assert label_budget({}) == LabelCounts(None, 0, 0)
    assert label_budget({"RLOOPolicy train, unlabelled": ["d"]}) == LabelCounts(0, 0, 0)
    write_run(tmp_path, (NOTHING,) * 4)
    (tmp_path / "ledger.json").write_text(json.dumps(ledger))
    assert compare_answers([read_run(tmp_path, "a")]).budgets == {"a": LabelCounts(5, 4, 2)}


@pytest.mark.parametrize(
    ("difference", "expected"),
    [((0.1, 0.01, 0.2), True), ((-0.1, -0.2, -0.01), True), ((0.1, 0.0, 0.2), False), ((0.1, -0.1, 0.2), False)],
)
def test_an_interval_that_touches_zero_does_not_exclude_it(difference, expected):
    assert excludes_zero(Interval(*difference)) is expected
