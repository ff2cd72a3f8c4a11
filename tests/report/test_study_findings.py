"""What a study's cells say together, worked by hand."""

import json
from pathlib import Path

import pytest
from answered import FORWARD, NO_REASON, REASON, STOP, scene

from lvad.metrics.intervals import Interval
from lvad.metrics.seeds import LabelsNeeded
from lvad.report.study_files import label_lines, percent, study_tables, study_text, write_study
from lvad.report.study_findings import ACTIONS, CellResult, score, seed_answers, summarise_cells

TRUE = (FORWARD, STOP, STOP, STOP)
ALL = ("00000001-00000001", "00000001-00000002", "00000002-00000003", "00000002-00000004")
GOOD, POOR = TRUE, (STOP,) * 4  # action macro-F1 2 / 4, and 6 / 7 of one class of four


def cell(arm, budget, seed, said, labels=None, reasons=REASON):
    answered = [scene(name, *pair, reasons) for name, *pair in zip(ALL, said, TRUE, strict=True)]
    return CellResult(
        arm, budget, seed, Path(f"r/{arm}"), budget if labels is None else labels, 12.5, "cpu", "abc", "lvad study", [],
        {"test": answered}, {"test": score(answered)},
    )  # fmt: skip


def cells():
    return [
        cell("sft", 10, 0, POOR, reasons=NO_REASON), cell("sft", 10, 1, POOR), cell("sft", 40, 0, GOOD),
        cell("sft", 40, 1, GOOD), cell("rl", 10, 0, GOOD), cell("rl", 10, 1, POOR),
    ]  # fmt: skip


def test_means_differences_and_savings_by_hand():
    found = summarise_cells(cells(), ["sft"])
    means = {(mean.arm, mean.budget): mean for mean in found.means}
    low, high = 6 / 7 / 4, 0.5
    assert means["sft", 10].scores["action_macro_f1"].mean == pytest.approx(low)
    assert means["rl", 10].scores["action_macro_f1"].mean == pytest.approx((low + high) / 2)
    # One of 21 reasons is true of all scenes; without it the macro-F1 is 0.
    assert means["sft", 10].scores["reason_macro_f1"].mean == pytest.approx(1 / 42)
    (difference,) = found.differences
    assert (difference.arm, difference.minus, difference.budget, difference.seeds) == ("rl", "sft", 10, [0, 1])
    assert difference.over_seeds["action_macro_f1"].mean == pytest.approx((high - low) / 2)
    # Of two values 0 and d: mean d / 2 +- 12.706 d / 2.
    assert difference.over_seeds["action_macro_f1"].high == pytest.approx((high - low) * 13.7062 / 2, abs=1e-4)
    assert difference.over_scenes["action_macro_f1"].mean == pytest.approx((high - low) / 2)
    # Half of the way from 10 to 40 on a log axis is 20; the reasons are as good as sft's at 40.
    saved = {saving.score: saving.needed for saving in found.savings}
    assert saved["action_macro_f1"].count == pytest.approx(20.0)
    assert saved["reason_macro_f1"] == LabelsNeeded(pytest.approx(40.0))
    assert found.floors["always_stop"] == {"action_macro_f1": pytest.approx(low)}
    assert found.num_scenes == 4


def test_scenes_are_drawn_by_the_recording_that_the_source_names():
    named = scene("b", STOP, STOP, recording="drive")
    answered = [scene("00000001-00000001", STOP, STOP), named, scene("c", STOP, STOP)]
    assert seed_answers(answered, ACTIONS).recordings == ["00000001", "drive", "c"]


def test_seeds_that_an_arm_lacks_are_left_out_of_its_differences():
    assert summarise_cells(cells()[:-1], ["sft"]).differences[0].seeds == [0]
    assert summarise_cells([*cells()[:4], cell("rl", 10, 7, GOOD)], ["sft"]).differences == []


def test_equal_labels_are_said_where_they_are():
    assert label_lines(summarise_cells(cells(), ["sft"]).means)[0].startswith("Labels are equal at every budget")
    more = [*cells()[:-2], cell("rl", 10, 0, GOOD, 1610), cell("rl", 10, 1, POOR, 1610)]
    found = summarise_cells(more, ["sft"])
    assert not found.differences[0].has_equal_labels
    assert label_lines(found.means) == ["Labels DIFFER from the budget, over all stages: rl at 10: 1,610."]
    text = study_text("mine", [found])
    assert "| rl | 10 | 1,610 | 2 |" in text
    assert "| rl - sft | 10 | DIFFER | 2 |" in text
    assert "equal" not in text


def test_tables_are_read_from_left_to_right():
    means, differences, savings = study_tables(summarise_cells(cells(), ["sft"]))
    assert means.rows[0][:5] == ("sft", "10", "10", "2", "21.4 (21.4 to 21.4)")
    assert means.rows[-2] == ("always stop", "0", "0", "-", "21.4", "-")
    assert differences.rows[0][:4] == ("rl - sft", "10", "equal", "2")
    assert savings.rows[0] == ("rl", "10", "action macro-F1", "20", "2.0")
    assert len(study_tables(summarise_cells([cell("sft", 10, 0, GOOD)], []))) == 1


def test_numbers_without_an_interval_stand_alone():
    nan = float("nan")
    assert percent(Interval(0.125, nan, nan)) == "12.5"
    assert percent(Interval(nan, nan, nan)) == "-"
    assert percent(Interval(0.125, -0.1, 0.35), "+") == "+12.5 (-10.0 to +35.0)"


def test_files_hold_a_row_per_run_and_nothing_that_json_lacks(tmp_path):
    one = [cell("sft", 10, 0, GOOD)]
    files = write_study(tmp_path, "mine", one, [summarise_cells(one, [])])
    assert [file.name for file in files] == ["study.md", "study.json", "study.png"]
    found = json.loads(files[1].read_text())
    assert found["runs"][0]["labels"] == 10
    assert found["findings"][0]["means"][0]["scores"]["action_macro_f1"] == {"mean": 0.5, "low": None, "high": None}
    assert files[2].stat().st_size > 10_000
