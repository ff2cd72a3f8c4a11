"""Write plain English captions of a synthetic scene, as a generic captioner would.

Each is true of its scene by ``lvad.facts.claims``. The words are few and the same from scene to scene, so that
a small vocabulary holds them.
"""

import random

from lvad.data.synthetic.state import SceneState, Side

_SHORT = (8, 22)
"""Fewest and most words of a short caption."""


def scene_captions(state: SceneState, rng: random.Random) -> tuple[str, ...]:
    """Write two or three short captions of parts of the scene, then one of everything that matters to the driver.

    Args:
        state: the scene.
        rng: chooses the facts and the words.

    Returns:
        Three or four captions; the last is the complete one, its driving facts in a fixed order.
    """
    count = rng.choice((2, 3))
    return (*(_short(state, rng) for _ in range(count)), complete_caption(state, rng))


def complete_caption(state: SceneState, rng: random.Random) -> str:
    """Write all salient driving facts (``lvad.facts.salient_facts``), one sentence each, in a fixed order."""
    sentences = [_time(state, rng)]
    sentences += [rng.choice(group) for group in _driving(state)]
    return " ".join(_sentence(words) for words in sentences)


def _short(state: SceneState, rng: random.Random) -> str:
    """Write a caption of 8 to 22 words, mostly on what matters to the driver."""
    driving, asides = _driving(state), _asides(state)
    groups, weights = driving + asides, [1.0] * len(driving) + [0.25] * len(asides)
    while True:
        num_told = min(rng.choice((1, 2, 2, 3, 3)), len(groups))
        told = _sample(groups, weights, num_told, rng)
        caption = _join([rng.choice(group) for group in told], _setting(state, rng), rng)
        if _SHORT[0] <= len(caption.split()) <= _SHORT[1]:
            return caption


def _sample(groups: list[list[str]], weights: list[float], count: int, rng: random.Random) -> list[list[str]]:
    """Draw ``count`` different groups, and return them in their own order."""
    chosen: set[int] = set()
    while len(chosen) < count:
        chosen.add(rng.choices(range(len(groups)), weights)[0])
    return [groups[i] for i in sorted(chosen)]


def _join(clauses: list[str], setting: str, rng: random.Random) -> str:
    if setting and rng.random() < 0.3:
        return _sentence(f"{setting}, {clauses[0]}") + "".join(" " + _sentence(c) for c in clauses[1:])
    if rng.random() < 0.5 or len(clauses) == 1:
        body = " and ".join(clauses[:2])
        return _sentence(f"{body} {setting}".strip()) + "".join(" " + _sentence(c) for c in clauses[2:])
    first = _sentence(f"{clauses[0]} {setting}".strip())
    return " ".join([first, *(_sentence(clause) for clause in clauses[1:])])


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."


def _time(state: SceneState, rng: random.Random) -> str:
    return rng.choice((f"it is {state.time}", f"we see a street {_hour(state)}"))


def _hour(state: SceneState) -> str:
    return "by day" if state.time == "day" else f"at {state.time}"


def _setting(state: SceneState, rng: random.Random) -> str:
    """Name the time, weather or background, or nothing."""
    weather = {
        "clear": "under a clear sky",
        "rain": "in the rain",
        "snow": "in the snow",
        "fog": "in the fog",
    }
    place = {"buildings": "near some buildings", "trees": "near some trees", "fields": "between fields"}
    return rng.choice((_hour(state), _hour(state), weather[state.weather], place[state.background], ""))


def _asides(state: SceneState) -> list[list[str]]:
    """Give the ways to tell each fact that asks nothing of the driver."""
    told = []
    if state.person == "sidewalk":
        told.append(["a person is on the sidewalk", "a person is walking on the sidewalk"])
    if state.sign == "speed limit":
        told.append(["there is a speed limit sign"])
    if state.junction:
        told.append(["we are at a junction", "there is a junction"])
    if state.light_before != state.light:
        told.append([f"the traffic light has just turned {state.light}"])
    for side, name in ((state.left, "left"), (state.right, "right")):
        if side.line == "dashed":
            told.append([f"the {name} line is dashed", f"there is a dashed line on the {name}"])
    return told


def _driving(state: SceneState) -> list[list[str]]:
    """Give the ways to tell each salient driving fact, or two that belong together."""
    told = [*_signals(state), *_ahead(state)]
    if state.turn_lane != "none":
        lane = f"{state.turn_lane}-turn lane"
        told.append([f"we are on the {lane}", f"our car is on the {lane}"])
    return told + _side(state.left, "left") + _side(state.right, "right")


def _signals(state: SceneState) -> list[list[str]]:
    told = []
    if state.light.endswith("arrow"):
        arrow = f"green {state.light}"
        told.append([f"the traffic light shows a {arrow}", f"there is a {arrow} on the traffic light"])
    elif state.light != "none":
        told.append([f"the traffic light is {state.light}", f"there is a {state.light} light"])
    if state.sign in ("stop", "yield"):
        told.append([f"there is a {state.sign} sign", f"we see a {state.sign} sign"])
    return told


def _ahead(state: SceneState) -> list[list[str]]:
    """Give the ways to tell each fact about our own lane."""
    told = []
    car = f"a {state.lead_colour} car"
    if state.turn != "none":
        told.append([f"{car} right ahead is turning {state.turn}", f"right ahead {car} is turning {state.turn}"])
    elif state.braking:
        told.append([f"{car} with brake lights on is right ahead", f"{car} is braking right ahead"])
    elif state.lead != "none":
        place = "right ahead" if state.lead == "near" else "far ahead"
        told.append([f"{car} is moving {place}", f"{place} {car} is moving"])
    if state.person == "crossing":
        told.append(["a person is crossing the street", "a person is crossing in front of us"])
    if state.rider:
        told.append(["a rider is in front of us", "a rider on a bike is on our lane"])
    if state.obstacle == "cones":
        told.append(["cones block our lane", "there are cones on our lane"])
    if state.obstacle == "barrier":
        told.append(["a barrier blocks our lane", "there is a barrier on our lane"])
    if not told:
        told.append(["the road ahead is clear", "the road is clear"])
    return told


def _side(side: Side, name: str) -> list[list[str]]:
    told = []
    if side.lane == "car":
        told.append([f"a {side.colour} car is on the {name} lane", f"there is a car on the {name} lane"])
    elif side.lane == "free":
        told.append([f"the {name} lane is free", f"the {name} lane is empty"])
    elif side.lane == "absent":
        told.append([f"there is no lane on the {name}"])
    if side.line == "solid":
        told.append([f"the {name} line is solid", f"there is a solid line on the {name}"])
    return told
