"""Paint traffic lights and signs, large and in their usual place. Give a canvas in full daylight, as they shine."""

import math
from typing import Final

from lvad.data.synthetic.canvas import Canvas, Colour, Points

LIGHT_X: Final = 0.56
_LAMPS: Final[tuple[tuple[str, Colour], ...]] = (
    ("red", (255, 25, 20)),
    ("yellow", (255, 205, 20)),
    ("green", (25, 255, 90)),
)
_POST: Colour = (74, 76, 80)
_RED: Colour = (205, 20, 28)
_WHITE: Colour = (250, 250, 250)

# Strokes of the letters on signs, x 0..1 to the right and y 0..1 down; fonts differ between machines.
_STROKES: Final[dict[str, Points]] = {
    "S": [(1, 0.08), (0.2, 0), (0, 0.25), (0.2, 0.47), (0.85, 0.53), (1, 0.75), (0.8, 1), (0, 0.94)],
    "T": [(0, 0), (1, 0), (0.5, 0), (0.5, 1)],
    "O": [(0.25, 0), (0.75, 0), (1, 0.3), (1, 0.7), (0.75, 1), (0.25, 1), (0, 0.7), (0, 0.3), (0.25, 0)],
    "P": [(0, 1), (0, 0), (0.8, 0), (1, 0.25), (0.8, 0.5), (0, 0.5)],
    "5": [(1, 0), (0.1, 0), (0, 0.42), (0.75, 0.42), (1, 0.7), (0.75, 1), (0, 0.95)],
    "0": [(0.3, 0), (0.7, 0), (1, 0.3), (1, 0.7), (0.7, 1), (0.3, 1), (0, 0.7), (0, 0.3), (0.3, 0)],
}


def paint_light(canvas: Canvas, light: str, shift: float) -> None:
    """Paint a traffic light on an arm from the right.

    Args:
        canvas: to paint on.
        light: ``red``, ``yellow``, ``green``, ``left arrow`` or ``right arrow``.
        shift: how far it is moved to the right, as a share of the frame.
    """
    x, top, low, half = LIGHT_X + shift, 0.02, 0.385, 0.075
    canvas.box((0.955, 0.05, 0.975, 0.5), _POST)
    canvas.box((x, 0.05, 0.965, 0.07), _POST)
    canvas.rounded((x - half - 0.008, top - 0.008, x + half + 0.008, low + 0.008), 0.03, (196, 190, 120))
    canvas.rounded((x - half, top, x + half, low), 0.025, (16, 16, 18))
    for i, (name, tone) in enumerate(_LAMPS):
        y, radius = top + 0.064 + i * 0.118, 0.053
        if name == light:
            canvas.disc(x, y, radius + 0.008, _dimmed(tone, 0.67))
            canvas.disc(x, y, radius, tone)
        elif name == "green" and light.endswith("arrow"):
            canvas.polygon(_arrow(x, y, -1 if light.startswith("left") else 1), tone)
        else:
            canvas.disc(x, y, radius, _dimmed(tone, 0.17))


def paint_sign(canvas: Canvas, sign: str, shift: float) -> None:
    """Paint a ``stop``, ``yield`` or ``speed limit`` sign on a post at the right, moved by ``shift``."""
    x, y, radius = 0.84 + shift, 0.25, 0.125
    canvas.box((x - 0.011, y, x + 0.011, 0.55), (128, 130, 134))
    if sign == "stop":
        canvas.polygon(_regular(x, y, radius, 8), _WHITE)
        canvas.polygon(_regular(x, y, radius - 0.013, 8), _RED)
        _write(canvas, "STOP", x, y, 0.17, 0.075, _WHITE)
    elif sign == "yield":
        canvas.polygon(_triangle(x, y, radius + 0.015), _RED)
        canvas.polygon(_triangle(x, y - 0.008, radius - 0.04), _WHITE)
    else:
        canvas.disc(x, y, radius - 0.01, _RED)
        canvas.disc(x, y, radius - 0.038, _WHITE)
        _write(canvas, "50", x, y, 0.105, 0.09, (20, 20, 20))


def _dimmed(tone: Colour, share: float) -> Colour:
    red, green, blue = tone
    return round(red * share), round(green * share), round(blue * share)


def _arrow(x: float, y: float, sign: int) -> Points:
    """Return the outline of an arrow around a point; sign 1 points right."""
    outline = (
        (0.068, 0),
        (0, -0.058),
        (0, -0.019),
        (-0.066, -0.019),
        (-0.066, 0.019),
        (0, 0.019),
        (0, 0.058),
    )
    return [(x + sign * dx, y + dy) for dx, dy in outline]


def _regular(x: float, y: float, radius: float, num_corners: int) -> Points:
    angles = (math.tau * (i + 0.5) / num_corners for i in range(num_corners))
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


def _triangle(x: float, y: float, radius: float) -> Points:
    return [(x - radius, y - radius * 0.75), (x + radius, y - radius * 0.75), (x, y + radius)]


def _write(canvas: Canvas, word: str, x: float, y: float, width: float, height: float, colour: Colour) -> None:
    pitch = width / len(word)
    for i, letter in enumerate(word):
        left, top = x - width / 2 + (i + 0.14) * pitch, y - height / 2
        canvas.line([(left + dx * pitch * 0.72, top + dy * height) for dx, dy in _STROKES[letter]], 0.0125, colour)
