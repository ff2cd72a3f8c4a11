"""The look that all plots share: colours, an empty figure, plain axes, and a figure's pixels."""

from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Blue and orange: told apart by colour-blind readers too.
BLUE: Final = "#005cab"
ORANGE: Final = "#c85000"
INK: Final = "#1c1e22"
SERIES_COLOURS: Final = (BLUE, ORANGE, "#2a9d5c", "#cc79a7", "#8a6d3b", "#56b4e9", "#7b5ea7", "#444444")
"""The colours of runs that stand in one plot, in order."""


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of a size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot: a run keeps no figure open, and needs no display
    return figure


def pixels(figure: Figure) -> np.ndarray:
    """Draw a figure and return its pixels, uint8[H, W, 3]."""
    assert isinstance(figure.canvas, FigureCanvasAgg)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def finish_axes(axes: Axes) -> None:
    """Give axes a grid and a legend, and take the upper and right edge away."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
