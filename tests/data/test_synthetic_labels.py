"""Labels of drawn scenes in a label set of their own, worked by hand."""

import dataclasses
import random

import pytest

from lvad.data.synthetic import bdd_oia_labels, draw_state, taxonomy_labels
from lvad.data.synthetic.state import Side
from lvad.taxonomy import BDD_OIA, Action, Reason, Taxonomy, load_taxonomy

LANES = load_taxonomy("lanes")
FREE, SOLID, CAR = Side("free", "dashed", "none"), Side("free", "solid", "none"), Side("car", "solid", "red")


@pytest.mark.parametrize(
    ("changes", "actions", "reasons"),
    [
        # wait, left lane, right lane; red, person, left free, left solid, right free, right solid
        ({}, (0, 1, 1), (0, 0, 1, 0, 1, 0)),
        ({"light": "red"}, (1, 1, 1), (1, 0, 1, 0, 1, 0)),
        ({"light": "yellow", "person": "crossing"}, (1, 1, 1), (0, 1, 1, 0, 1, 0)),
        ({"person": "sidewalk", "left": SOLID}, (0, 0, 1), (0, 0, 1, 1, 1, 0)),
        ({"left": CAR, "right": CAR}, (0, 0, 0), (0, 0, 0, 1, 0, 1)),
    ],
)
def test_labels_follow_from_what_is_drawn(changes, actions, reasons):
    drawn = draw_state(random.Random(0))
    plain = {"light": "none", "person": "none", "rider": False, "obstacle": "none", "left": FREE, "right": FREE}
    state = dataclasses.replace(drawn, junction=False, **plain | changes)
    assert taxonomy_labels(state, LANES) == (actions, reasons)


def test_bdd_oia_has_rules_of_its_own():
    rng = random.Random(1)
    for _ in range(20):
        state = draw_state(rng)
        assert taxonomy_labels(state, BDD_OIA) == bdd_oia_labels(state)


def test_of_two_actions_that_exclude_each_other_the_second_stays():
    actions = [Action("go", 0), Action("halt", 1)]
    reasons = [Reason("clear", "road is clear", 0, True, 0), Reason("red", "red light", 1, True, 1)]
    state = dataclasses.replace(
        draw_state(random.Random(0)), light="red", lead="none", rider=False, obstacle="none", person="none"
    )
    assert taxonomy_labels(state, Taxonomy("x", actions, reasons)) == ((1, 1), (1, 1))
    assert taxonomy_labels(state, Taxonomy("x", actions, reasons, exclusive=[(0, 1)])) == ((0, 1), (1, 1))


def test_reasons_that_nothing_drawn_speaks_of_are_refused():
    silent = Taxonomy("silent", [Action("go", 0)], [Reason("hum", "the engine hums", 0, True, 0)])
    with pytest.raises(ValueError, match=r"with the set 'silent': lvad\.facts knows no fact that 'the engine hums'"):
        taxonomy_labels(draw_state(random.Random(0)), silent)
