"""Paint the sky, the background and the road of a scene, with its lines, crossing and arrows."""

import random
from functools import lru_cache

from PIL import Image

from lvad.data.synthetic.canvas import HORIZON, Canvas, Colour
from lvad.data.synthetic.state import SceneState, Side

_SKY: dict[str, tuple[Colour, Colour]] = {
    "day": ((110, 175, 240), (190, 220, 245)),
    "dusk": ((120, 80, 130), (255, 150, 80)),
    "night": ((28, 30, 62), (60, 62, 100)),
}
_GREY_SKY: dict[str, tuple[Colour, Colour]] = {
    "day": ((150, 158, 168), (195, 200, 205)),
    "dusk": ((120, 95, 105), (190, 130, 105)),
    "night": ((40, 42, 58), (70, 72, 90)),
}
_GROUND: dict[str, Colour] = {"buildings": (176, 168, 152), "trees": (92, 150, 72), "fields": (168, 178, 80)}
_ASPHALT: Colour = (92, 92, 98)
_WHITE: Colour = (245, 245, 245)
_YELLOW: Colour = (250, 190, 20)


@lru_cache(maxsize=64)
def sky(time: str, is_clear: bool, size: int) -> Image.Image:
    """Make the sky above the horizon, an RGB image of ``size`` pixels square; it is cached, so only copy it."""
    top, low = (_SKY if is_clear else _GREY_SKY)[time]
    column = Image.new("RGB", (1, size))
    for y in range(size):
        share = min(1.0, y / (HORIZON * size))
        column.putpixel((0, y), tuple(round(a + (b - a) * share) for a, b in zip(top, low, strict=True)))
    return column.resize((size, size))


def paint_background(canvas: Canvas, state: SceneState, rng: random.Random) -> None:
    """Paint the ground and what stands along the horizon."""
    ground = (228, 232, 238) if state.weather == "snow" else _GROUND[state.background]
    canvas.box((0, HORIZON, 1, 1), ground)
    if state.background == "buildings":
        _paint_buildings(canvas, state, rng)
    elif state.background == "trees":
        for i in range(9):
            x, height = i / 8 + rng.uniform(-0.04, 0.04), rng.uniform(0.09, 0.15)
            green = rng.randint(85, 125)
            canvas.box((x - 0.01, HORIZON - height * 0.5, x + 0.01, HORIZON + 0.01), (92, 66, 42))
            canvas.disc(x, HORIZON - height * 0.75, height * 0.5, (38, green, 46))
    else:
        shift = rng.uniform(-0.2, 0.2)
        hill = (205, 215, 222) if state.weather == "snow" else (128, 152, 74)
        canvas.polygon([(-0.3, HORIZON), (0.25 + shift, HORIZON - 0.06), (0.7 + shift, HORIZON)], hill)
        canvas.polygon([(0.4, HORIZON), (0.85 + shift, HORIZON - 0.05), (1.4, HORIZON)], hill)


def _paint_buildings(canvas: Canvas, state: SceneState, rng: random.Random) -> None:
    x = -0.02
    while x < 1:
        width, height = rng.uniform(0.1, 0.18), rng.uniform(0.12, 0.3)
        tone = rng.randint(105, 165)
        canvas.box((x, HORIZON - height, x + width - 0.006, HORIZON), (tone, tone - 8, tone - 16))
        for row in range(int(height / 0.055)):
            for column in range(int(width / 0.045)):
                left, top = x + 0.015 + column * 0.045, HORIZON - height + 0.02 + row * 0.055
                window = (left, top, left + 0.018, top + 0.026)
                is_lit = state.time == "night" and rng.random() < 0.4
                canvas.box(window, (225, 190, 95) if is_lit else (70, 80, 100), shines=is_lit)
        x += width


def paint_road(canvas: Canvas, state: SceneState, travelled: float) -> None:
    """Paint the asphalt and its markings.

    Args:
        canvas: to paint on.
        state: the scene.
        travelled: distance driven since the first frame, in dash periods.
    """
    left = -0.5 if state.left.lane == "absent" else -1.5
    right = 0.5 if state.right.lane == "absent" else 1.5
    canvas.polygon([canvas.on_road(x, n) for x, n in ((left, 0), (right, 0), (right, 1), (left, 1))], _ASPHALT)
    if state.junction:
        _paint_junction(canvas)
    else:
        for edge in (left, right):
            _paint_stripe(canvas, edge, 0.07, 0.0, 1.0, (166, 148, 130))
        _paint_line(canvas, state.left, -0.5, travelled, _YELLOW if state.seed % 10 < 7 else _WHITE)
        _paint_line(canvas, state.right, 0.5, travelled, _WHITE)
    if state.turn_lane != "none":
        _paint_arrow(canvas, -1 if state.turn_lane == "left" else 1)


def _paint_stripe(canvas: Canvas, lane: float, half: float, far: float, near: float, colour: Colour) -> None:
    corners = ((lane - half, far), (lane + half, far), (lane + half, near), (lane - half, near))
    canvas.polygon([canvas.on_road(x, n) for x, n in corners], colour)


def _paint_line(canvas: Canvas, side: Side, lane: float, travelled: float, solid: Colour) -> None:
    if side.line == "solid":
        _paint_stripe(canvas, lane, 0.055, 0.03, 1.0, solid)
    elif side.line == "dashed":
        # Evenly spaced on the ground, hence in one over the nearness; driving on brings them nearer.
        distance = 0.55 - travelled % 1 * 0.75
        while distance < 7:
            far, near = 1 / (distance + 0.33), min(1.0, 1 / max(distance, 1e-3))
            if far < 1:
                _paint_stripe(canvas, lane, 0.042, far, near, _WHITE)
            distance += 0.75


def _paint_junction(canvas: Canvas) -> None:
    """Paint a cross street behind a zebra crossing and a stop line."""
    top, low = (canvas.on_road(0, nearness)[1] for nearness in (0.1, 0.34))
    canvas.box((0, top, 1, low), _ASPHALT)
    for i in range(-11, 12):
        _paint_stripe(canvas, i * 0.26, 0.07, 0.4, 0.56, _WHITE)
    _paint_stripe(canvas, 0, 0.5, 0.62, 0.66, _WHITE)


def _paint_arrow(canvas: Canvas, sign: int) -> None:
    """Paint the arrow of a turn lane; sign 1 turns right."""
    # Across in lanes, mirrored by the sign; the shaft comes from below and bends to the side.
    outline = (
        (-0.16, 1.0),
        (-0.16, 0.76),
        (0.1, 0.76),
        (0.1, 0.7),
        (0.34, 0.805),
        (0.1, 0.93),
        (0.1, 0.85),
        (-0.02, 0.85),
        (-0.02, 1.0),
    )
    canvas.polygon([canvas.on_road(sign * x, nearness) for x, nearness in outline], _WHITE)
