"""The state of a synthetic scene: what it holds, how it is sampled, and the facts that follow.

The marginals follow the real label files (BDD-OIA, 11,299 rows). Riders, other obstacles and front cars that turn are
more frequent on purpose (1-2 % here, .1-1 % there), so that they can be learnt from some thousand scenes.
"""

import random
from dataclasses import dataclass
from typing import Final

CAR_COLOURS: Final = ("white", "black", "silver", "red", "blue", "yellow")


@dataclass(frozen=True)
class Side:
    """The lane and the line at the left or right of our own lane."""

    lane: str
    """``none`` at a junction, where no lane is marked; ``absent`` where our lane is the last."""
    line: str
    colour: str
    """Colour of the car on that lane, else ``none``."""


@dataclass(frozen=True)
class SceneState:
    """Everything in a scene, as of its last frame unless said; the values are those of ``lvad.facts.ATTRIBUTES``."""

    time: str
    weather: str
    background: str
    junction: bool
    light: str
    light_before: str
    """The light in the first half of the frames; equal to ``light`` where it does not change."""
    sign: str
    lead: str
    lead_colour: str
    braking: bool
    """A near lead car brakes: its brake lights are on and it comes nearer from frame to frame."""
    turn: str
    """Where the near lead car turns to."""
    person: str
    rider: bool
    obstacle: str
    turn_lane: str
    """The arrow on our own lane."""
    left: Side
    right: Side
    seed: int
    """Seed of jitter and pixel noise, which mean nothing."""


def _pick(rng: random.Random, weights: dict[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def draw_state(rng: random.Random) -> SceneState:
    """Sample a scene; equal states of ``rng`` give equal scenes."""
    light = _pick(
        rng,
        {"none": 0.48, "red": 0.28, "yellow": 0.04, "green": 0.14, "left arrow": 0.025, "right arrow": 0.035},
    )
    is_red, is_arrow = light in ("red", "yellow"), light.endswith("arrow")
    junction = rng.random() < (1.0 if is_arrow else 0.38 if is_red else 0.45 if light == "green" else 0.2)
    sign = _draw_sign(rng) if light == "none" else "none"
    hazard = _draw_hazard(rng, is_red)
    turn, turn_lane = _draw_turns(rng, light) if junction and hazard == "none" else ("none", "none")
    lead, braking = _draw_lead(rng, light, sign) if hazard in ("none", "sidewalk") else ("none", False)
    if turn != "none":
        lead, braking = "near", False
    return SceneState(
        time=_pick(rng, {"day": 0.6, "dusk": 0.15, "night": 0.25}),
        weather=_pick(rng, {"clear": 0.7, "rain": 0.12, "snow": 0.09, "fog": 0.09}),
        background=_pick(rng, {"buildings": 0.45, "trees": 0.35, "fields": 0.2}),
        junction=junction,
        light=light,
        light_before=_draw_light_before(rng, light),
        sign=sign,
        lead=lead,
        lead_colour="none" if lead == "none" else rng.choice(CAR_COLOURS),
        braking=braking,
        turn=turn,
        person=hazard if hazard in ("crossing", "sidewalk") else "none",
        rider=hazard == "rider",
        obstacle=hazard if hazard in ("cones", "barrier") else "none",
        turn_lane=turn_lane,
        left=_draw_side(rng, junction, absent=0.19, car=0.4, solid=0.4),
        right=_draw_side(rng, junction, absent=0.24, car=0.54, solid=0.22),
        seed=rng.getrandbits(32),
    )


def _draw_sign(rng: random.Random) -> str:
    return _pick(rng, {"none": 0.88, "stop": 0.048, "yield": 0.024, "speed limit": 0.048})


def _draw_hazard(rng: random.Random, is_red: bool) -> str:
    crossing = 0.14 if is_red else 0.035
    weights = {"crossing": crossing, "sidewalk": 0.06, "rider": 0.018, "cones": 0.006, "barrier": 0.006}
    return _pick(rng, {"none": 1 - sum(weights.values()), **weights})


def _draw_lead(rng: random.Random, light: str, sign: str) -> tuple[str, bool]:
    is_stopped_anyway = light in ("red", "yellow") or sign in ("stop", "yield")
    braking = 0.4 if is_stopped_anyway else 0.12 if light != "none" else 0.41
    kind = _pick(
        rng,
        {
            "braking": braking,
            "near": (1 - braking) * 0.32,
            "far": (1 - braking) * 0.25,
            "none": (1 - braking) * 0.43,
        },
    )
    return ("near", True) if kind == "braking" else (kind, False)


def _draw_turns(rng: random.Random, light: str) -> tuple[str, str]:
    """Sample the near lead car's turn and our own turn lane."""
    turn = _pick(rng, {"none": 0.84, "left": 0.08, "right": 0.08}) if light in ("none", "green") else "none"
    if light.endswith("arrow"):
        return turn, light.split()[0] if rng.random() < 0.5 else "none"
    if light in ("red", "yellow"):
        return turn, _pick(rng, {"none": 0.9, "left": 0.05, "right": 0.05})
    return turn, _pick(rng, {"none": 0.57, "left": 0.13, "right": 0.3})


def _draw_light_before(rng: random.Random, light: str) -> str:
    before = {"red": ("yellow", 0.1), "yellow": ("green", 0.6), "green": ("red", 0.25)}.get(light)
    return before[0] if before and rng.random() < before[1] else light


def _draw_side(rng: random.Random, junction: bool, absent: float, car: float, solid: float) -> Side:
    if junction:
        return Side("none", "none", "none")
    if rng.random() < absent:
        return Side("absent", "none", "none")
    # Car and solid line are slightly correlated, so that more sides are free of both.
    has_car = rng.random() < car
    is_solid = rng.random() < (solid * 1.3 if has_car else solid * 0.75)
    colour = rng.choice(CAR_COLOURS) if has_car else "none"
    return Side("car" if has_car else "free", "solid" if is_solid else "dashed", colour)


def scene_facts(state: SceneState) -> dict[str, str]:
    """Return every attribute of ``lvad.facts.ATTRIBUTES`` with its value in a scene."""
    nothing_ahead = state.lead == "none" and not state.rider and state.obstacle == "none"
    return {
        "time": state.time,
        "weather": state.weather,
        "background": state.background,
        "place": "junction" if state.junction else "road",
        "light": state.light,
        "change": "turned" if state.light_before != state.light else "none",
        "sign": state.sign,
        "lead": state.lead,
        "colour": state.lead_colour,
        "brakes": "none" if state.lead == "none" or state.turn != "none" else "on" if state.braking else "off",
        "turn": state.turn,
        "person": state.person,
        "rider": "ahead" if state.rider else "none",
        "obstacle": state.obstacle,
        "road": "clear" if nothing_ahead and state.person != "crossing" else "none",
        "turn_lane": state.turn_lane,
        "left_lane": state.left.lane,
        "left_line": state.left.line,
        "left_colour": state.left.colour,
        "right_lane": state.right.lane,
        "right_line": state.right.line,
        "right_colour": state.right.colour,
    }
