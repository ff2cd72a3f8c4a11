"""Render the frames of a scene: the driver's view ahead, painted with Pillow at twice the size and halved."""

import random
from functools import lru_cache

from PIL import Image, ImageChops, ImageDraw

from lvad.data.synthetic.canvas import HORIZON, Canvas
from lvad.data.synthetic.lights_and_signs import paint_light, paint_sign
from lvad.data.synthetic.objects import (
    paint_barrier,
    paint_car,
    paint_cones,
    paint_person,
    paint_rider,
    paint_turning_car,
)
from lvad.data.synthetic.road import paint_background, paint_road, sky
from lvad.data.synthetic.state import SceneState

_COATS = ((235, 70, 160), (120, 60, 210), (245, 130, 20), (30, 150, 140))
_FOG = {"day": (200, 204, 208), "dusk": (186, 150, 132), "night": (74, 76, 90)}
_DAYLIGHT = {"day": (1.0, 1.0, 1.0), "dusk": (0.88, 0.76, 0.7), "night": (0.55, 0.57, 0.7)}
_NOISE_AMPLITUDE = 14


def render_frame(state: SceneState, frame: int, num_frames: int, size_px: int = 128) -> Image.Image:
    """Render one of a scene's consecutive frames; the last one shows exactly ``state``.

    Args:
        state: the scene.
        frame: number of the frame; 0 is the oldest.
        num_frames: M.
        size_px: height and width.

    Returns:
        An RGB image, the same for the same arguments.

    Raises:
        ValueError: if ``frame`` is not in 0 .. M - 1.
    """
    if not 0 <= frame < num_frames:
        raise ValueError(f"frame={frame}, must lie in 0 .. num_frames - 1 = {num_frames - 1}")
    to_go = 1 - frame / (num_frames - 1) if num_frames > 1 else 0.0
    rng = random.Random(state.seed)
    brightness, centre_x = rng.uniform(0.92, 1.06), 0.5 + rng.uniform(-0.02, 0.02)
    image = sky(state.time, state.weather in ("clear", "snow"), 2 * size_px).copy()
    red, green, blue = (min(1.0, share * brightness) for share in _DAYLIGHT[state.time])
    canvas = Canvas(image, centre_x, (red, green, blue))
    paint_background(canvas, state, rng)
    _paint_scene(canvas, state, to_go, rng)
    if state.weather == "fog":
        image.paste(_FOG[state.time], (0, 0), _fog_mask(image.width))
    _paint_signals(Canvas(image, centre_x, (1.0, 1.0, 1.0)), state, to_go, rng.uniform(-0.02, 0.02))
    image = image.reduce(2)
    noise_rng = random.Random(f"{state.seed} {frame}")
    if state.weather in ("rain", "snow"):
        _paint_fall(image, state, noise_rng)
    return _with_noise(image, noise_rng)


def _paint_scene(canvas: Canvas, state: SceneState, to_go: float, rng: random.Random) -> None:
    """Paint the road and all on it; ``to_go`` falls from 1 in the first frame to 0 in the last."""
    is_stopped = state.light in ("red", "yellow") or state.braking
    travelled = rng.random() + (0.0 if is_stopped else 0.4) * (1 - to_go)
    side_drift, jitter = rng.uniform(-0.08, 0.08), rng.uniform(-0.03, 0.03)
    walks_right, starts_braking = rng.random() < 0.5, rng.random() < 0.4
    coat, stand = rng.choice(_COATS), rng.uniform(-0.3, 0.3)
    sidewalk_x = 0.07 if rng.random() < 0.5 else 0.93
    paint_road(canvas, state, travelled)
    if state.person == "sidewalk":
        paint_person(canvas, sidewalk_x + 0.03 * to_go, HORIZON + 0.26, 0.24, coat, 0.6)
    _paint_lead(canvas, state, to_go, jitter, is_braking=state.braking and not (starts_braking and to_go >= 0.5))
    for lane, side in ((-1, state.left), (1, state.right)):
        if side.lane == "car":
            paint_car(canvas, lane * 1.02, 0.6 + jitter + side_drift * to_go, side.colour)
    way = -1 if walks_right else 1
    x, ground = canvas.on_road(stand + way * 0.5 * to_go, 0.6 + jitter)
    if state.person == "crossing":
        paint_person(canvas, x, ground, 0.36, coat, 0.9 - 0.6 * to_go)
    elif state.rider:
        paint_rider(canvas, *canvas.on_road(stand * 0.5 - 0.2 * to_go, 0.62 + jitter), 0.36, coat)
    elif state.obstacle == "cones":
        paint_cones(canvas, 0.62 + jitter - 0.1 * to_go)
    elif state.obstacle == "barrier":
        paint_barrier(canvas, 0.62 + jitter - 0.1 * to_go)


def _paint_lead(canvas: Canvas, state: SceneState, to_go: float, jitter: float, is_braking: bool) -> None:
    if state.turn != "none":
        sign = -1 if state.turn == "left" else 1
        paint_turning_car(canvas, sign * (0.3 - 0.3 * to_go), 0.56 + jitter, state.lead_colour, sign)
    elif state.lead == "far":
        paint_car(canvas, 0, 0.3 + jitter + 0.03 * to_go, state.lead_colour)
    elif state.lead == "near":
        nearness = 0.66 - 0.12 * to_go if state.braking else 0.62 + 0.03 * to_go
        paint_car(canvas, 0, nearness + jitter, state.lead_colour, is_braking)


def _paint_signals(canvas: Canvas, state: SceneState, to_go: float, shift: float) -> None:
    if state.light != "none":
        paint_light(canvas, state.light_before if to_go >= 0.5 else state.light, shift)
    if state.sign != "none":
        paint_sign(canvas, state.sign, shift)


@lru_cache(maxsize=4)
def _fog_mask(size: int) -> Image.Image:
    """Make a grey mask of fog, thick at the horizon and thin close by; it is cached, so never change it."""
    column = Image.new("L", (1, size))
    for y in range(size):
        distance = abs(y / size - HORIZON) / (1 - HORIZON)
        column.putpixel((0, y), round(190 - 150 * min(1.0, distance * 1.4)))
    return column.resize((size, size))


def _paint_fall(image: Image.Image, state: SceneState, rng: random.Random) -> None:
    draw, size = ImageDraw.Draw(image), image.width
    for _ in range(45):
        x, y = rng.random() * size, rng.random() * size
        if state.weather == "rain":
            draw.line([x, y, x - size * 0.015, y + size * 0.06], fill=(170, 185, 205))
        else:
            radius = size * 0.007
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=(245, 248, 252))


@lru_cache(maxsize=4)
def _noise_tile(size: int) -> Image.Image:
    values = random.Random(size).randbytes(size * size * 3)
    tile = Image.frombytes("RGB", (size, size), values)
    return tile.point([value * _NOISE_AMPLITUDE // 256 for value in range(256)] * 3)


def _with_noise(image: Image.Image, rng: random.Random) -> Image.Image:
    size = image.width
    left, top = rng.randrange(size), rng.randrange(size)
    tile = _noise_tile(2 * size).crop((left, top, left + size, top + size))
    return ImageChops.add(image, tile, 1, -_NOISE_AMPLITUDE // 2)
