import pytest

from lvad.facts import ATTRIBUTES
from lvad.metrics.fact_scores import FactCounts, fact_counts, fact_scores

# Salient driving facts: light, brakes, lead, left_lane, right_lane = 5.
FACTS = dict.fromkeys(ATTRIBUTES, "none") | {
    "time": "night",
    "light": "red",
    "lead": "near",
    "colour": "blue",
    "brakes": "on",
    "left_lane": "car",
    "right_lane": "absent",
}


def test_fact_counts_by_hand():
    # Claims: colour blue (true), brakes on (true), lead near (true), light green (false), time night (true).
    text = "A blue car with brake lights on is right ahead. The traffic light is green. It is night."
    assert fact_counts(text, FACTS) == FactCounts(5, 4, 5, 2)


def test_nothing_said():
    assert fact_counts("123", FACTS) == FactCounts(0, 0, 5, 0)


def test_a_repeated_truth_does_not_dilute_a_lie():
    # One true, one false however often the true one is said.
    text = "The traffic light is red. The road is clear."
    assert fact_counts(text + " The light is red." * 9 + " The light is not green.", FACTS) == fact_counts(text, FACTS)


def test_an_open_claim_finds_the_fact():
    assert fact_counts("traffic light is not green", FACTS) == FactCounts(1, 1, 5, 1)


def test_score_is_micro():
    # 2 claims, both true, 2 of 5 found; then 1 claim, false, 0 of 5; then no claim, 0 of 5.
    texts = ["The light is red. There is no lane on the right.", "The road is clear.", "hello"]
    values = {name: value.item() for name, value in fact_scores([fact_counts(t, FACTS) for t in texts]).items()}
    assert values == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 15, "all_right": 1 / 3, "claims_per_text": 1.0}, abs=1e-6
    )


def test_score_of_nothing_is_zero():
    assert {value.item() for value in fact_scores([]).values()} == {0.0}
