"""Records of a study that was run in parts are joined to what one run of it all would have written."""

import copy
import json
from pathlib import Path

import pytest
from study_records import joined

RECORD = Path(__file__).parents[1] / "benchmarks" / "label_efficiency.json"
SOURCE = "test"


def part(record, arms):
    """What a study of these arms alone records."""
    runs = [run for run in record["runs"] if run["arm"] in arms]
    findings = [
        found
        | {
            "means": [mean for mean in found["means"] if mean["arm"] in arms],
            "differences": [row for row in found["differences"] if {row["arm"], row["minus"]} <= arms],
            "savings": [],
        }
        for found in record["findings"]
    ]
    return record | {"runs": runs, "findings": findings}


def keyed(rows, *names):
    return {tuple(str(row[name]) for name in names): row for row in rows}


@pytest.fixture
def record():
    return json.loads(RECORD.read_text())


def test_parts_give_the_record_of_all(record):
    mine = {"supervised", "reader_vote"}
    others = {run["arm"] for run in record["runs"]} - mine | {"reader_vote"}
    whole = joined(part(record, mine), part(record, others))
    assert keyed(whole["runs"], "arm", "budget", "seed") == keyed(record["runs"], "arm", "budget", "seed")
    for found, expected in zip(whole["findings"], record["findings"], strict=True):
        assert keyed(found["means"], "arm", "budget") == keyed(expected["means"], "arm", "budget")
        assert keyed(found["savings"], "arm", "budget", "score") == keyed(expected["savings"], "arm", "budget", "score")
        differences, known = (keyed(one["differences"], "arm", "minus", "budget") for one in (found, expected))
        assert differences.keys() == known.keys()
        for names, row in differences.items():
            assert row["over_seeds"] == known[names]["over_seeds"]
            together = {names[0], names[1]} <= mine or {names[0], names[1]} <= others
            assert row["over_scenes"] == (known[names]["over_scenes"] if together else None)


def test_a_run_that_came_out_otherwise_is_refused(record):
    other = copy.deepcopy(record)
    other["runs"][0]["scores"][SOURCE]["action_macro_f1"] += 0.01
    with pytest.raises(ValueError, match="action_macro_f1 of test is"):
        joined(record, other)
