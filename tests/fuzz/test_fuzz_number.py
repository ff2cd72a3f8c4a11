"""How many cases there are; that each reader's are run, its own test sees."""

from hostile import CASES


def test_there_are_enough_cases() -> None:
    assert sum(CASES.values()) >= 5000
    assert min(CASES.values()) >= 40
