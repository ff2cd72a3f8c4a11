import pytest

from lvad.facts import ATTRIBUTES, DRIVING, claims, contradicts, is_true, mirror_facts, salient_facts
from lvad.taxonomy import BDD_OIA

NOTHING = dict.fromkeys(ATTRIBUTES, "none")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "A blue car with brake lights on is right ahead at a red light.",
            {("colour", "blue"), ("brakes", "on"), ("lead", "near"), ("light", "red")},
        ),
        (
            "A white car is on the left lane and the road is clear.",
            {("left_colour", "white"), ("left_lane", "car"), ("road", "clear")},
        ),
        ("The traffic light has just turned green.", {("light", "green"), ("change", "turned")}),
        ("the traffic light shows a green left arrow", {("light", "left arrow")}),
        (
            "There is a solid line on the left. The right line is dashed.",
            {("left_line", "solid"), ("right_line", "dashed")},
        ),
        ("a red car right ahead is turning left", {("colour", "red"), ("lead", "near"), ("turn", "left")}),
        ("Under a clear sky, we see a street by day.", {("weather", "clear"), ("time", "day")}),
        ("A person is walking on the sidewalk near some trees.", {("person", "sidewalk"), ("background", "trees")}),
        ("There is a stop sign. There is a speed limit sign.", {("sign", "stop"), ("sign", "speed limit")}),
        ("We are on the right-turn lane at a junction.", {("turn_lane", "right"), ("place", "junction")}),
        ("Forward. The car can turn left or stop.", set()),
        ("", set()),
    ],
)
def test_claims_of_captions(text, expected):
    assert set(claims(text)) == expected


REASON_CLAIMS = {
    "follow traffic": ("brakes", "off"),
    "road is clear": ("road", "clear"),
    "traffic light is green": ("light", "green"),
    "obstacle: car": ("brakes", "on"),
    "obstacle: person": ("person", "crossing"),
    "obstacle: rider": ("rider", "ahead"),
    "obstacle: others": ("obstacle", "cones|barrier"),
    "traffic light is not green": ("light", "red|yellow"),
    "traffic sign": ("sign", "stop|yield"),
    "front car turning left": ("turn", "left"),
    "on the left-turn lane": ("turn_lane", "left"),
    "traffic light allows to turn left": ("light", "left arrow"),
    "front car turning right": ("turn", "right"),
    "on the right-turn lane": ("turn_lane", "right"),
    "traffic light allows to turn right": ("light", "right arrow"),
    "obstacles on the left lane": ("left_lane", "car"),
    "no lane on the left": ("left_lane", "absent"),
    "solid line on the left": ("left_line", "solid"),
    "obstacles on the right lane": ("right_lane", "car"),
    "no lane on the right": ("right_lane", "absent"),
    "solid line on the right": ("right_line", "solid"),
}


def test_every_reason_text_claims_one_fact():
    assert {text: claims(text) for text in BDD_OIA.reason_texts} == {text: [c] for text, c in REASON_CLAIMS.items()}


def test_claims_stay_inside_the_language():
    for attribute, values in [*REASON_CLAIMS.values(), *(("light", value) for value in ATTRIBUTES["light"])]:
        assert set(values.split("|")) <= set(ATTRIBUTES[attribute])
    assert DRIVING <= set(ATTRIBUTES)


def test_repeating_is_one_claim():
    assert claims("The light is red. A red light. THE LIGHT   IS RED.") == [("light", "red")]


def test_open_claim_beside_a_closer_one_is_none():
    assert claims("The traffic light is red. The traffic light is not green.") == [("light", "red")]
    # Nothing hides a contradiction: both count, one of them false.
    assert set(claims("The light is red and the light is green.")) == {("light", "red"), ("light", "green")}


@pytest.mark.parametrize(
    "text",
    [
        "no car on the left lane",
        "there is no stop sign",
        "no solid line on the left",
        "no barrier",
        "it is not a junction",
    ],
)
def test_denial_does_not_claim(text):
    assert claims(text) == []


def test_denials_that_are_facts():
    assert claims("There is no traffic light and no person.") == [("light", "none"), ("person", "none")]


def test_is_true():
    assert is_true(("light", "red|yellow"), NOTHING | {"light": "yellow"})
    assert not is_true(("light", "red"), NOTHING | {"light": "yellow"})
    with pytest.raises(KeyError):
        is_true(("light", "red"), {})


def test_present_leaves_out_what_asks_nothing():
    facts = NOTHING | {
        "time": "night",
        "light": "red",
        "person": "sidewalk",
        "left_lane": "free",
        "left_line": "dashed",
        "sign": "speed limit",
    }
    assert salient_facts(facts) == {"light": "red", "left_lane": "free"}


def test_mirrored_facts_exchange_sides():
    facts = dict.fromkeys(ATTRIBUTES, "none") | {
        "light": "left arrow", "turn": "right", "left_lane": "car", "right_line": "solid", "lead": "near",
    }  # fmt: skip
    other = mirror_facts(facts)
    changed = {name: other[name] for name in ("light", "turn", "right_lane", "left_lane", "left_line", "lead")}
    assert changed == {
        "light": "right arrow", "turn": "left", "right_lane": "car", "left_lane": "none", "left_line": "solid",
        "lead": "near",
    }  # fmt: skip
    assert mirror_facts(other) == facts
    assert list(other) == list(facts)


@pytest.mark.parametrize(
    ("text", "truths", "expected"),
    [
        ("A car is on the left lane.", ["no lane on the left"], True),
        ("A car is on the left lane.", ["no lane on the right"], False),
        ("The light is green.", ["traffic light is not green"], True),
        ("The light is red.", ["traffic light is not green"], False),
        ("Nothing that can be read.", list(BDD_OIA.reason_texts[:1]), False),
        ("A car is on the left lane.", [], False),
    ],
)
def test_contradictions_are_read_from_the_words(text, truths, expected):
    assert contradicts(text, truths) is expected


def test_no_caption_contradicts_its_own_scene_and_no_mirrored_one_that_is_accused_is_true():
    from lvad.data.synthetic.labels import bdd_oia_labels
    from lvad.data.synthetic.state import scene_facts
    from lvad.data.synthetic.write import draw_scene
    from lvad.text import mirror_text

    accused = 0
    for index in range(300):
        scene = draw_scene(4, index)
        truths = [text for text, flag in zip(BDD_OIA.reason_texts, bdd_oia_labels(scene.state)[1], strict=True) if flag]
        for caption in scene.captions:
            assert not contradicts(caption, truths)
            if contradicts(mirror_text(caption), truths):
                accused += 1
                assert not all(is_true(claim, scene_facts(scene.state)) for claim in claims(mirror_text(caption)))
    assert accused > 100
