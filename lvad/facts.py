"""The closed language of facts of a scene, and the claims of a sentence about them.

A fact is an attribute with one of its ``ATTRIBUTES`` values. A claim is an attribute with one value, or with
several joined by ``|`` where the words leave it open ("traffic light is not green": ``red|yellow``).
Everything here works on words alone; ``lvad.data.synthetic`` draws the scenes that have facts.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

_COLOURS: Final = ("none", "white", "black", "silver", "red", "blue", "yellow")

ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "time": ("day", "dusk", "night"),
    "weather": ("clear", "rain", "snow", "fog"),
    "background": ("buildings", "trees", "fields"),
    "place": ("road", "junction"),
    "light": ("none", "red", "yellow", "green", "left arrow", "right arrow"),
    "change": ("none", "turned"),
    "sign": ("none", "stop", "yield", "speed limit"),
    "lead": ("none", "near", "far"),
    "colour": _COLOURS,
    "brakes": ("none", "on", "off"),
    "turn": ("none", "left", "right"),
    "person": ("none", "crossing", "sidewalk"),
    "rider": ("none", "ahead"),
    "obstacle": ("none", "cones", "barrier"),
    "road": ("none", "clear"),
    "turn_lane": ("none", "left", "right"),
    "left_lane": ("none", "absent", "free", "car"),
    "left_line": ("none", "solid", "dashed"),
    "left_colour": _COLOURS,
    "right_lane": ("none", "absent", "free", "car"),
    "right_line": ("none", "solid", "dashed"),
    "right_colour": _COLOURS,
}
"""Every attribute with its values.

``colour`` is the lead car's colour and ``turn`` where it turns to; its ``brakes`` are ``none`` while it turns off, as
it is then neither in the way nor to be followed. ``turn_lane`` is our own lane's arrow. At a junction the side lanes
and lines are ``none``, as nothing is marked there.
"""

DRIVING: Final = frozenset(
    "light sign lead brakes turn person rider obstacle road turn_lane left_lane left_line right_lane right_line".split()
)
"""The attributes that matter for the possible actions."""

_NOT_SALIENT: Final = frozenset(
    {("person", "sidewalk"), ("sign", "speed limit"), ("left_line", "dashed"), ("right_line", "dashed")}
)


class _Pattern(NamedTuple):
    """A pattern of words that make a claim; ``{0}`` in attribute or value is replaced by the first group, and so on."""

    regex: re.Pattern[str]
    attribute: str
    value: str


def _pattern(regex: str, attribute: str, value: str) -> _Pattern:
    # "No stop sign" and "not a person" claim none of it; the patterns that begin with "no" stand apart.
    return _Pattern(re.compile(r"(?<!\bno )(?<!\bnot )(?<!\bnot a )\b" + regex), attribute, value)


_COLOUR = "(" + "|".join(_COLOURS[1:]) + ")"
_CAR = r"(?:cars?|vehicles?)"
_PERSON = r"(?:person|pedestrian|people)"

_PATTERNS: Final = (
    _pattern(r"(night|dusk|day)(?:time|light)?\b", "time", "{0}"),
    _pattern(r"clear (?:sky|weather|day|dusk|night)\b", "weather", "clear"),
    _pattern(r"sky is clear\b", "weather", "clear"),
    _pattern(r"(rain|snow|fog)(?:y|ing|g?y)?\b", "weather", "{0}"),
    _pattern(r"buildings?\b", "background", "buildings"),
    _pattern(r"trees?\b", "background", "trees"),
    _pattern(r"fields?\b", "background", "fields"),
    _pattern(r"(?:junction|intersection)\b", "place", "junction"),
    _pattern(r"(red|yellow|green) (?:traffic )?light\b", "light", "{0}"),
    _pattern(
        r"light (?:ahead )?(?:is|shows|has(?: just)? turned) (red|yellow|green)\b(?! (?:left|right))",
        "light",
        "{0}",
    ),
    _pattern(r"light is not green\b", "light", "red|yellow"),
    _pattern(r"green (left|right) arrow\b", "light", "{0} arrow"),
    _pattern(r"light allows (?:to turn )?(left|right)\b", "light", "{0} arrow"),
    _pattern(r"no traffic light\b", "light", "none"),
    _pattern(r"just turned\b", "change", "turned"),
    _pattern(r"(stop|yield|speed limit) sign\b", "sign", "{0}"),
    _pattern(r"traffic sign\b", "sign", "stop|yield"),
    _pattern(r"no traffic sign\b", "sign", "none"),
    _pattern(r"(?:right|close) ahead\b", "lead", "near"),
    _pattern(r"far ahead\b", "lead", "far"),
    _pattern(rf"no {_CAR} ahead\b", "lead", "none"),
    _pattern(r"brake lights (?:are )?(on|off)\b", "brakes", "{0}"),
    _pattern(r"(?:is braking|brakes|obstacle: car)\b", "brakes", "on"),
    _pattern(r"(?:is moving|moves|follow(?:s|ing)? (?:the )?traffic)\b", "brakes", "off"),
    _pattern(rf"{_CAR}(?: (?:right |far )?ahead)?(?: is)? turning (left|right)\b", "turn", "{0}"),
    _pattern(rf"{_PERSON} (?:is |are )?(?:crossing|in the way)\b", "person", "crossing"),
    _pattern(r"obstacle: person\b", "person", "crossing"),
    _pattern(rf"{_PERSON} (?:is |are )?(?:walking )?on the sidewalk\b", "person", "sidewalk"),
    _pattern(rf"no {_PERSON}\b", "person", "none"),
    _pattern(r"(?:rider|cyclist)\b", "rider", "ahead"),
    _pattern(r"no (?:rider|cyclist)\b", "rider", "none"),
    _pattern(r"(?:traffic )?cones?\b", "obstacle", "cones"),
    _pattern(r"barrier\b", "obstacle", "barrier"),
    _pattern(r"obstacle: others\b", "obstacle", "cones|barrier"),
    _pattern(r"road (?:ahead )?is clear\b", "road", "clear"),
    _pattern(r"clear road\b", "road", "clear"),
    _pattern(r"(left|right)[- ]turn lane\b", "turn_lane", "{0}"),
    _pattern(rf"{_CAR} (?:is |are )?(?:on|in) the (left|right) lane\b", "{0}_lane", "car"),
    _pattern(r"obstacles? on the (left|right) lane\b", "{0}_lane", "car"),
    _pattern(r"(left|right) lane (?:is|are) (?:blocked|taken|occupied)\b", "{0}_lane", "car"),
    _pattern(r"(left|right) lane (?:is|are) (?:free|empty|open)\b", "{0}_lane", "free"),
    _pattern(r"(?:free|empty|open) (left|right) lane\b", "{0}_lane", "free"),
    _pattern(r"no lane (?:on|to) the (left|right)\b", "{0}_lane", "absent"),
    _pattern(r"no (left|right) lane\b", "{0}_lane", "absent"),
    _pattern(r"(solid|dashed) line (?:on|to) the (left|right)\b", "{1}_line", "{0}"),
    _pattern(r"(solid|dashed) (left|right) line\b", "{1}_line", "{0}"),
    _pattern(r"(left|right) line is (solid|dashed)\b", "{0}_line", "{1}"),
    _pattern(rf"{_COLOUR} {_CAR} (?:is )?(?:on|in) the (left|right) lane\b", "{1}_colour", "{0}"),
    _pattern(rf"{_COLOUR} {_CAR}(?! (?:is )?(?:on|in) the (?:left|right) lane)\b", "colour", "{0}"),
)


def claims(text: str) -> list[tuple[str, str]]:
    """Extract the claims of a text about its scene, in the order of its words.

    A claim that is made twice counts once, and an open claim ("light is not green") is dropped beside a closer one on
    the same attribute ("light is red"), so that repeating a true claim does not raise the precision.

    Args:
        text: a caption, a reason or any other text; words that no pattern knows are ignored.

    Returns:
        Distinct (attribute, value) pairs; several values joined by ``|`` mean any of them.
    """
    words = " ".join(text.lower().split())
    found = [
        (match.start(), pattern.attribute.format(*match.groups()), pattern.value.format(*match.groups()))
        for pattern in _PATTERNS
        for match in pattern.regex.finditer(words)
    ]
    distinct = list(dict.fromkeys((attribute, value) for _, attribute, value in sorted(found)))
    return [claim for claim in distinct if not any(_is_closer(other, claim) for other in distinct)]


def _is_closer(claim: tuple[str, str], than: tuple[str, str]) -> bool:
    return claim[0] == than[0] and set(claim[1].split("|")) < set(than[1].split("|"))


def contradicts(text: str, truths: Sequence[str]) -> bool:
    """Whether a claim of a text is ruled out by true texts, which claim another value of the same attribute.

    Only words are compared, so labels are enough: "a car is on the left lane" contradicts "no lane on the left".
    """
    known: dict[str, set[str]] = {}
    for attribute, value in (claim for truth in truths for claim in claims(truth)):
        known[attribute] = known.get(attribute, set(ATTRIBUTES[attribute])) & set(value.split("|"))
    return any(
        known.get(attribute, set(value.split("|"))).isdisjoint(value.split("|")) for attribute, value in claims(text)
    )


def is_true(claim: tuple[str, str], facts: Mapping[str, str]) -> bool:
    """Whether a claim holds in a scene.

    Raises:
        KeyError: if ``facts`` lacks the claim's attribute; complete facts have all of ``ATTRIBUTES``.
    """
    attribute, value = claim
    return facts[attribute] in value.split("|")


def salient_facts(facts: Mapping[str, str]) -> dict[str, str]:
    """Select the salient driving facts, which a complete description has to mention.

    Values ``none`` are left out, and so are those that ask nothing of the driver: a person on the sidewalk, a speed
    limit, a dashed line.
    """
    return {
        attribute: value
        for attribute, value in facts.items()
        if attribute in DRIVING and value != "none" and (attribute, value) not in _NOT_SALIENT
    }


def mirror_facts(facts: Mapping[str, str]) -> dict[str, str]:
    """Exchange left and right in the facts, as a horizontal flip of the pictures does; twice gives the facts again."""

    def other(words: str) -> str:
        return re.sub(r"left|right", lambda side: "right" if side[0] == "left" else "left", words)

    mirrored = {other(attribute): other(value) for attribute, value in facts.items()}
    return {attribute: mirrored[attribute] for attribute in facts}
