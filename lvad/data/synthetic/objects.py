"""Paint what stands or moves in a scene: cars, people, cones, barrier."""

from typing import Final

from lvad.data.synthetic.canvas import Box, Canvas, Colour

CAR_TONES: Final[dict[str, Colour]] = {
    "white": (240, 240, 238),
    "black": (28, 28, 32),
    "silver": (146, 152, 160),
    "red": (200, 24, 34),
    "blue": (28, 72, 205),
    "yellow": (245, 200, 20),
}
_GLASS: Colour = (70, 92, 112)
_TYRE: Colour = (14, 14, 16)
_SKIN: Colour = (226, 178, 142)
_BLINKER: Colour = (255, 160, 20)


def _dark(tone: Colour, share: float = 0.72) -> Colour:
    red, green, blue = tone
    return round(red * share), round(green * share), round(blue * share)


def paint_car(canvas: Canvas, lane: float, nearness: float, colour: str, braking: bool = False) -> None:
    """Paint a car seen from behind, its wheels at a point on the road.

    Args:
        canvas: to paint on.
        lane: position across the road, see ``Canvas.on_road``.
        nearness: nearness of its rear wheels, see ``Canvas.on_road``.
        colour: one of ``CAR_TONES``.
        braking: whether its brake lights shine.
    """
    x, ground = canvas.on_road(lane, nearness)
    width = 0.42 * nearness
    half, tone = width / 2, CAR_TONES[colour]
    top, belt, low = ground - 0.78 * width, ground - 0.47 * width, ground - 0.1 * width
    canvas.oval((x - half * 1.1, ground - 0.09 * width, x + half * 1.1, ground + 0.05 * width), (50, 50, 54))
    for side in (-1, 1):
        wheel = x + side * half * 0.74
        canvas.box((wheel - half * 0.2, ground - 0.2 * width, wheel + half * 0.2, ground), _TYRE)
    roof = [(x - half * 0.66, top), (x + half * 0.66, top), (x + half * 0.9, belt), (x - half * 0.9, belt)]
    canvas.polygon(roof, _dark(tone, 0.85))
    inner = [(x - half * 0.56, top + 0.05 * width), (x + half * 0.56, top + 0.05 * width)]
    canvas.polygon([*inner, (x + half * 0.74, belt), (x - half * 0.74, belt)], _GLASS)
    canvas.rounded((x - half, belt, x + half, low), 0.07 * width, tone)
    canvas.box((x - half * 0.96, low - 0.07 * width, x + half * 0.96, low), _dark(tone, 0.6))
    canvas.box((x - half * 0.24, low - 0.17 * width, x + half * 0.24, low - 0.08 * width), (215, 215, 200))
    lamps_y = belt + 0.06 * width, belt + 0.2 * width
    for side in (-1, 1):
        lamp = x + side * half * 0.74
        _paint_lamp(canvas, (lamp - half * 0.22, lamps_y[0], lamp + half * 0.22, lamps_y[1]), braking)
    if braking:
        _paint_lamp(canvas, (x - half * 0.3, top + 0.06 * width, x + half * 0.3, top + 0.11 * width), True)


def _paint_lamp(canvas: Canvas, box: Box, braking: bool) -> None:
    if braking:
        left, upper, right, lower = box
        rim = 0.07 * (right - left)
        canvas.box((left - rim, upper - rim, right + rim, lower + rim), (255, 120, 90), shines=True)
        canvas.box(box, (255, 10, 10), shines=True)
    else:
        canvas.box(box, (96, 10, 18))


def paint_turning_car(canvas: Canvas, lane: float, nearness: float, colour: str, sign: int) -> None:
    """Paint a car seen from its side as it turns off, blinking; sign 1 turns right."""
    x, ground = canvas.on_road(lane, nearness)
    width, tone = 0.62 * nearness, CAR_TONES[colour]
    half = width / 2

    def at(along: float, up: float) -> tuple[float, float]:
        """Return the frame position of a point of the car, in half widths forwards and widths upwards."""
        return x + sign * along * half, ground - up * width

    cabin = [at(-0.75, 0.3), at(-0.5, 0.47), at(0.2, 0.47), at(0.5, 0.3)]
    canvas.polygon([at(-1, 0.3), at(-1, 0.1), at(1, 0.1), at(1, 0.24), at(0.5, 0.31)], tone)
    canvas.polygon(cabin, _dark(tone, 0.85))
    canvas.polygon([at(-0.6, 0.31), at(-0.43, 0.43), at(-0.15, 0.43), at(-0.15, 0.31)], _GLASS)
    canvas.polygon([at(-0.07, 0.31), at(-0.07, 0.43), at(0.15, 0.43), at(0.36, 0.31)], _GLASS)
    for along in (-0.58, 0.58):
        wheel, _ = at(along, 0)
        canvas.disc(wheel, ground - 0.09 * width, 0.1 * width, _TYRE)
        canvas.disc(wheel, ground - 0.09 * width, 0.045 * width, (150, 150, 155))
    for along in (0.9, -0.92):
        lamp, height = at(along, 0.21)
        canvas.disc(lamp, height, 0.06 * width, _BLINKER, shines=True)


def paint_person(canvas: Canvas, x: float, ground: float, height: float, coat: Colour, stride: float) -> None:
    """Paint a walking person with the feet at (x, ground); stride -1 to 1 is how far the legs are apart."""
    hip, neck = ground - 0.45 * height, ground - 0.82 * height
    for side in (-1, 1):
        foot = x + side * stride * 0.17 * height
        canvas.line([(x, hip), (foot, ground)], 0.1 * height, (38, 40, 70))
        hand = x - side * (0.1 + 0.12 * abs(stride)) * height
        canvas.line([(x, neck + 0.06 * height), (hand, hip)], 0.075 * height, _dark(coat))
    canvas.rounded((x - 0.12 * height, neck, x + 0.12 * height, hip + 0.03 * height), 0.05 * height, coat)
    canvas.disc(x, ground - 0.91 * height, 0.09 * height, _SKIN)


def paint_rider(canvas: Canvas, x: float, ground: float, height: float, coat: Colour) -> None:
    """Paint a rider on a bicycle, the lowest points of the wheels at height ``ground``."""
    radius = 0.2 * height
    rear, front, axle = x - 0.27 * height, x + 0.27 * height, ground - radius
    for wheel in (rear, front):
        canvas.ring(wheel, axle, radius, 0.05 * height, _TYRE)
    crank, saddle = (x - 0.03 * height, axle), (x - 0.13 * height, ground - 0.48 * height)
    bars = (x + 0.2 * height, ground - 0.52 * height)
    canvas.line([(rear, axle), saddle, crank, bars, (front, axle)], 0.03 * height, (205, 50, 40))
    canvas.line([saddle, (x + 0.06 * height, ground - 0.36 * height), crank], 0.08 * height, (38, 40, 70))
    shoulder = (x + 0.03 * height, ground - 0.76 * height)
    canvas.line([saddle, shoulder], 0.17 * height, coat)
    canvas.line([shoulder, bars], 0.07 * height, _SKIN)
    canvas.disc(x + 0.07 * height, ground - 0.87 * height, 0.095 * height, _SKIN)
    canvas.box(
        (x - 0.03 * height, ground - 0.98 * height, x + 0.165 * height, ground - 0.89 * height),
        (250, 250, 90),
    )


def paint_cones(canvas: Canvas, nearness: float) -> None:
    """Paint three traffic cones across our lane."""
    height = 0.3 * nearness
    for lane in (-0.32, 0.0, 0.32):
        x, ground = canvas.on_road(lane, nearness)
        half = 0.3 * height
        canvas.box((x - half * 1.2, ground - 0.1 * height, x + half * 1.2, ground), (200, 80, 10))
        canvas.polygon(
            [(x - half, ground - 0.08 * height), (x, ground - height), (x + half, ground - 0.08 * height)],
            (255, 110, 15),
        )
        canvas.box((x - half * 0.62, ground - 0.48 * height, x + half * 0.62, ground - 0.3 * height), (250, 250, 250))


def paint_barrier(canvas: Canvas, nearness: float) -> None:
    """Paint a red and white barrier across our lane."""
    x, ground = canvas.on_road(0, nearness)
    half, height = 0.24 * nearness, 0.24 * nearness
    for side in (-0.7, 0.7):
        leg = x + side * half
        canvas.box((leg - 0.012, ground - height, leg + 0.012, ground), (150, 150, 150))
    top, low = ground - height, ground - 0.45 * height
    canvas.box((x - half, top, x + half, low), (250, 250, 250))
    step = half / 3
    for i in range(3):
        left = x - half + i * 2 * step
        canvas.polygon(
            [(left, low), (left + step * 0.7, top), (left + step * 1.7, top), (left + step, low)],
            (215, 25, 25),
        )
