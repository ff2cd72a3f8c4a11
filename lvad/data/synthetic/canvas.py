"""The canvas that a scene is painted on, with its perspective and the light of the hour."""

from typing import Final

from PIL import Image, ImageDraw

HORIZON: Final = 0.42
"""Height of the vanishing point, as a share of the frame from the top."""
LANE_WIDTH: Final = 0.52
"""Width of a lane where it leaves the frame at the bottom, as a share of the frame."""

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
Points = list[tuple[float, float]]


class Canvas:
    """A square image, painted in shares of the frame (0 left or top, 1 right or bottom).

    Colours are given as by day; the hour's light falls on all but what ``shines``.

    Args:
        image: the image to paint on.
        centre_x: the vanishing point.
        daylight: share of red, green and blue that the hour leaves.
    """

    def __init__(self, image: Image.Image, centre_x: float, daylight: tuple[float, float, float]) -> None:
        self._size = image.width
        self._centre_x = centre_x
        self._daylight = daylight
        self._draw = ImageDraw.Draw(image)

    def on_road(self, lane: float, nearness: float) -> tuple[float, float]:
        """Return the frame position of a point on the ground.

        Args:
            lane: across, in lane widths; 0 is the middle of our lane.
            nearness: 0 at the horizon, 1 at the lower edge; falls with one over the distance.
        """
        return self._centre_x + lane * LANE_WIDTH * nearness, HORIZON + (1 - HORIZON) * nearness

    def polygon(self, points: Points, colour: Colour, shines: bool = False) -> None:
        """Fill a polygon."""
        self._draw.polygon([(x * self._size, y * self._size) for x, y in points], fill=self._tone(colour, shines))

    def box(self, box: Box, colour: Colour, shines: bool = False) -> None:
        """Fill a rectangle left, top, right, bottom."""
        self._draw.rectangle([value * self._size for value in box], fill=self._tone(colour, shines))

    def rounded(self, box: Box, radius: float, colour: Colour, shines: bool = False) -> None:
        """Fill a rectangle with round corners."""
        self._draw.rounded_rectangle(
            [value * self._size for value in box], radius=radius * self._size, fill=self._tone(colour, shines)
        )

    def disc(self, x: float, y: float, radius: float, colour: Colour, shines: bool = False) -> None:
        """Fill a circle."""
        self._draw.ellipse([value * self._size for value in _around(x, y, radius)], fill=self._tone(colour, shines))

    def oval(self, box: Box, colour: Colour, shines: bool = False) -> None:
        """Fill an ellipse left, top, right, bottom."""
        self._draw.ellipse([value * self._size for value in box], fill=self._tone(colour, shines))

    def ring(self, x: float, y: float, radius: float, width: float, colour: Colour, shines: bool = False) -> None:
        """Draw a circle's rim."""
        self._draw.ellipse(
            [value * self._size for value in _around(x, y, radius)],
            outline=self._tone(colour, shines),
            width=max(1, round(width * self._size)),
        )

    def line(self, points: Points, width: float, colour: Colour, shines: bool = False) -> None:
        """Draw an open line."""
        self._draw.line(
            [(x * self._size, y * self._size) for x, y in points],
            fill=self._tone(colour, shines),
            width=max(1, round(width * self._size)),
        )

    def _tone(self, colour: Colour, shines: bool) -> Colour:
        if shines:
            return colour
        red, green, blue = (round(value * share) for value, share in zip(colour, self._daylight, strict=True))
        return red, green, blue


def _around(x: float, y: float, radius: float) -> Box:
    return x - radius, y - radius, x + radius, y + radius
