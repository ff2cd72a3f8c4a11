"""Scenes in turn."""

import pytest

from lvad.data.in_turn import in_turn


def test_each_comes_once_before_any_comes_again():
    series = in_turn(5, 3, 0, 15)
    rounds = [series[i : i + 5] for i in (0, 5, 10)]
    assert all(sorted(members) == list(range(5)) for members in rounds)
    assert len({tuple(members) for members in rounds}) > 1


def test_a_step_does_not_depend_on_those_before_it():
    assert [i for first in range(0, 12, 4) for i in in_turn(5, 3, first, 4)] == in_turn(5, 3, 0, 12)
    assert in_turn(50, 3, 0, 50) != in_turn(50, 4, 0, 50)


def test_of_nothing_there_is_no_series():
    with pytest.raises(ZeroDivisionError):
        in_turn(0, 0, 0, 1)
